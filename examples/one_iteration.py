"""One iteration of VisPlay (arXiv 2511.15661) by hand, without trainer or engine: python -m examples.one_iteration."""

# N images or questions, G completions each, K answers of a vote, T tokens. Left out: KL, clipping, limits of time.

import numpy as np
import torch
from torch import Tensor
from torch.optim import AdamW

from visplay import functional as F  # noqa: N812
from visplay.modules import VLM, Qwen2_5_VL
from visplay.terminal import Terminal
from visplay.tiny import ANSWER, ASK, BASE, QUESTION_KINDS
from visplay.tiny.shapes import SHAPES


@torch.no_grad()
def sample(policy: VLM, prompts: list, g: int) -> tuple[list[list[str]], Tensor, Tensor]:
    """Sample texts (N, G), their ids (N, G, T) and the mask of these (N, G, T); every prompt is read once."""
    rows, ids = torch.arange(len(prompts)).repeat_interleave(g), []
    hidden, cache = policy.prefill(prompts)
    hidden, cache = hidden[rows, None], cache.take(rows, to_sample=True)  # (N G, 1, H)
    for _ in range(48):
        ids.append(policy.logits(hidden[:, -1]).softmax(-1).multinomial(1))  # (N G, 1)
        hidden, cache = policy.extend(cache, ids[-1])
    ids = torch.stack(ids, -1).view(len(prompts), g, -1)
    ends = torch.isin(ids, torch.tensor(policy.stop_token_ids)).int()
    mask = ends.cumsum(-1) == ends  # up to the first stop token, which is learned as well
    return [[policy.decode(ids[n, i][mask[n, i]].tolist()) for i in range(g)] for n in range(len(ids))], ids, mask


def vote(reasoner: VLM, images: list, questions: list, k: int) -> dict:
    """Find the majority of K answers to each question (i, j) and its fraction, the confidence (Eq. 4)."""
    asked = {(i, j): each.text for i, group in enumerate(questions) for j, each in enumerate(group) if each}
    prompts = [reasoner.encode(f"{i}#{j}", ANSWER, images[i], question=text) for (i, j), text in asked.items()]
    texts = dict(zip(asked, sample(reasoner, prompts, k)[0], strict=True))
    shape = [(i, j) for i, group in enumerate(questions) for j in range(len(group))]
    return {index: F.vote([*map(F.parse_boxed, texts.get(index, ()))]) for index in shape}


def learn(policy: VLM, optimizer: AdamW, prompts: list, ids: Tensor, mask: Tensor, rewards: Tensor) -> float:
    """Make one update of GRPO, from rewards (N, G); their mean is returned."""
    logps = policy.logps(prompts, ids, mask)[0].flatten(0, 1)  # (N G, T)
    weights = F.sequence_mean_weights(mask.flatten(0, 1))
    F.clipped_policy_loss(logps, logps.detach(), F.group_advantages(rewards).flatten(), weights)[0].backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(rewards.mean())


def main(n: int = 8, g: int = 8, k: int = 10, steps: int = 3) -> tuple[list[float], list[float]]:
    """Train the Questioner, make a data set, train the Reasoner; the mean rewards of the steps of each."""
    torch.manual_seed(0)
    rng, asked, answered = np.random.default_rng(0), [], []
    images = [SHAPES.render(SHAPES.sample_scene(rng, "training"), rng) for _ in range(n)]
    policies = questioner, reasoner = Qwen2_5_VL(str(BASE)), Qwen2_5_VL(str(BASE))
    for policy in policies:
        policy.load()
    optimizers = [AdamW(policy.parameters(), lr=1e-4) for policy in policies]
    prompts = [questioner.encode(str(i), ASK, image) for i, image in enumerate(images)]
    for step in range(steps + 1):  # what the Questioner asks once it has learned is the Reasoner's data set
        texts, ids, mask = sample(questioner, prompts, g)
        questions = [[F.parse_question(text, QUESTION_KINDS) for text in group] for group in texts]
        votes = vote(reasoner, images, questions, k)
        if step < steps:
            confidences = torch.tensor([[votes[i, j].confidence for j in range(g)] for i in range(n)])
            redundancy = F.group_redundancy([[each and each.text for each in group] for group in questions])
            rewards = F.questioner_rewards(confidences > 0, F.difficulty(confidences), redundancy)  # Eq. 5 to 8
            asked.append(learn(questioner, optimizers[0], prompts, ids, mask, rewards))
    kept = {(i, j): found.answer for (i, j), found in votes.items() if 0.25 <= found.confidence <= 0.75}  # Eq. 9
    prompts = [reasoner.encode(f"{i}#{j}", ANSWER, images[i], question=questions[i][j].text) for i, j in kept]
    for _ in range(steps if kept else 0):  # the Reasoner learns to answer as its majority did
        texts, ids, mask = sample(reasoner, prompts, g)
        rewards = [F.agreement([*map(F.parse_boxed, texts[i])], silver) for i, silver in enumerate(kept.values())]
        answered.append(learn(reasoner, optimizers[1], prompts, ids, mask, torch.stack(rewards)))  # Eq. 10
    return asked, answered


if __name__ == "__main__":
    Terminal().print("mean reward of each step, of the Questioner and of the Reasoner:", *main())
