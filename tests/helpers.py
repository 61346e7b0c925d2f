"""Images that tell their number, and an engine that says what it is told to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image

from visplay.callbacks import RolloutEngine, TransformersRollout
from visplay.modules import VLM
from visplay.types import Completion, Prompt, Sampling


def plain_image(number: int, size: tuple[int, int] = (56, 56)) -> Image.Image:
    """An image of one colour that tells its number."""
    return Image.new("RGB", size, (number % 256, number // 256 % 256, 77))


def image_number(image: Image.Image) -> int:
    red, green, _ = image.convert("RGB").getpixel((0, 0))
    return red + 256 * green


class Elsewhere(TransformersRollout):
    """Begins, and samples at once, from the weights that there are then.

    Attributes:
        begun: Versions that it began to sample from.
    """

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[int] = []

    def begin(self, policy: VLM, prompts: Sequence[Prompt], sampling: Sampling) -> Callable[[], list[list[Completion]]]:
        self.begun.append(policy.version)
        done = self.generate(policy, prompts, sampling)
        self.sleep()
        return lambda: done


class Scripted(RolloutEngine):
    """Completes prompts with what a function of (policy's name, prompt, prompt's text, sample) says.

    The script returns the text, or a pair of text and whether the completion stopped by itself.
    """

    def __init__(self, script: Callable[[str, Prompt, str, int], str | tuple[str, bool]]) -> None:
        super().__init__()
        self.script = script
        self.calls: list[tuple[str, int, Sampling]] = []

    def load_weights(self, policy: VLM) -> None:
        pass

    def sample(self, policy: VLM, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        self.calls.append((policy.name, policy.version, sampling))
        numbers = range(sampling.first, sampling.first + sampling.n)
        return [[self._complete(policy, prompt, sample) for sample in numbers] for prompt in prompts]

    def begin(self, policy: VLM, prompts: Sequence[Prompt], sampling: Sampling) -> Callable[[], list[list[Completion]]]:
        groups = self.generate(policy, prompts, sampling)
        return lambda: groups

    def _complete(self, policy: VLM, prompt: Prompt, sample: int) -> Completion:
        said = self.script(policy.name, prompt, policy.tokenizer.decode(prompt.token_ids), sample)
        text, finished = said if isinstance(said, tuple) else (said, True)
        ids = policy.tokenizer.encode(text, add_special_tokens=False)
        ids = ids + [policy.stop_token_ids[0]] if finished else ids or [0]
        return Completion(tuple(ids), (-1.0,) * len(ids), text, finished)
