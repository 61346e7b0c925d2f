"""The exported Reasoner behind vLLM's OpenAI-compatible server, asked about an image.

visplay export runs/tiny/version_0 --output exports/reasoner
vllm serve exports/reasoner --port 8000
python -m examples.serve_with_vllm http://127.0.0.1:8000 image.png "How many red circles are there?"
"""

import base64
import sys
from pathlib import Path

from openai import OpenAI

from visplay.functional import parse_boxed
from visplay.terminal import Terminal


def ask(url: str, image: str | Path, question: str, key: str = "none") -> tuple[str, str | None]:
    """Ask the model that a server has.

    Args:
        url: Of the server.
        image: A PNG file.
        question: The question, as the Reasoner's template has it.
        key: Of the server, where it was started with one.

    Returns:
        The completion, and the boxed answer in it; None where there is none.
    """
    client = OpenAI(base_url=f"{url}/v1", api_key=key)
    model = client.models.list().data[0].id
    picture = f"data:image/png;base64,{base64.b64encode(Path(image).read_bytes()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}]
    answered = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=48)
    text = answered.choices[0].message.content
    return text, parse_boxed(text)


if __name__ == "__main__":
    text, answer = ask(*sys.argv[1:])
    Terminal().print(f"{text}\n{answer}")
