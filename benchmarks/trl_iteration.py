"""One VisPlay iteration in the parts that users of TRL would put together, for ``benchmarks.whole_iteration``.

Completions come from transformers' ``generate`` and updates from TRL's ``GRPOTrainer``, on models that transformers has
loaded as it does by default: nothing of the project computes. What is parsed, voted, paid, curated and scored, and in
which order images and questions come, is the project's own, so that both ways learn the same. The trainer's settings
are those of ``benchmarks.trl_trainer``, which says what makes it fast, with learning rate, KL weight and lengths of the
configuration; its loss is the one of GRPO, as ours. It needs the extra ``bench``.

With vLLM, all that is sampled outside of the trainer comes from it: votes, curation and validation. TRL 1.16 starts the
CPU build of vLLM 0.32 (``use_vllm``, ``vllm_mode="colocate"``), warns of its version, and ends before the first
completion in ``sync_weights``: ``AttributeError: 'Parameter' object has no attribute 'weight_loader'``, as vLLM packs
weights anew on a CPU after it has loaded them. So the trainer samples with ``generate`` here too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from lightning import Trainer
from transformers import AutoModelForImageTextToText, PrinterCallback
from trl import GRPOTrainer

from benchmarks.iteration_workloads import ValidationTimer
from benchmarks.trl_trainer import FEATURES, TRLSettings, make_config
from benchmarks.workload import plain_generate
from visplay.callbacks import EngineSettings, RolloutEngine, SelfPlay, VLLMRollout
from visplay.callbacks.curation.curator import Curator
from visplay.callbacks.iterations.phase_sources import PhaseSources
from visplay.cli import VisPlayCLI
from visplay.clock import Clock
from visplay.modules.policy.vlm import VLM
from visplay.modules.role import Role
from visplay.types import Completion, Example, Prompt, Rollout, Sampling, UnlabeledImage


class Plain(VLM):
    """A policy whose model is as transformers loads it, in float32."""

    def _load_model(self) -> Any:
        return AutoModelForImageTextToText.from_pretrained(self.path, dtype=torch.float32)


class GenerateRollout(RolloutEngine):
    """Samples with ``generate(num_return_sequences=n)``, prompts of similar length in a batch.

    Args:
        max_sequences: Most sequences in a batch.
    """

    def __init__(self, max_sequences: int) -> None:
        super().__init__()
        self.max_sequences = max_sequences

    def load_weights(self, policy: Any) -> None:
        """Nothing to bring: the policy's own weights are sampled from."""

    def sample(self, policy: Any, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Sample batch by batch; the completions have no log-probabilities, which nothing here asks for."""
        by_length = sorted(range(len(prompts)), key=lambda index: policy.prompt_tokens(prompts[index]))
        size, found = max(1, self.max_sequences // sampling.n), dict[int, list[Completion]]()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(sampling.seed)
            for start in range(0, len(by_length), size):
                batch = by_length[start : start + size]
                sampled = plain_generate(
                    policy,
                    [prompts[index] for index in batch],
                    sampling.n,
                    sampling.max_new_tokens,
                    temperature=sampling.temperature,
                )
                groups = sampled.view(len(batch), sampling.n, -1).tolist()
                found |= {i: [read(policy, ids) for ids in g] for i, g in zip(batch, groups, strict=True)}
        return [found[index] for index in range(len(prompts))]


def read(policy: Any, ids: Sequence[int]) -> Completion:
    """A completion without what follows the token that ends it."""
    end = next((place for place, token in enumerate(ids) if token in policy.stop_token_ids), None)
    ids = tuple(ids if end is None else ids[: end + 1])
    return Completion(ids, (), policy.decode(ids), end is not None)


class _TimedTrainer(GRPOTrainer):
    """TRL's trainer, whose sampling is timed."""

    clock: Clock

    def _generate(self, prompts: list) -> Any:
        with self.clock("rollout"):
            return super()._generate(prompts)


class TRLIteration:
    """What a configuration of ``visplay fit`` has done in an iteration, done with TRL.

    Args:
        built: Model, data and settings.
        directory: Where is written.
        vllm: Whether vLLM samples what the trainer does not.

    Attributes:
        seconds: Of each stage but validation, by the names that ``visplay fit`` logs.
    """

    def __init__(self, built: VisPlayCLI, directory: Path, vllm: bool = False) -> None:
        self.module, self.data, self.directory = built.model, built.data, directory
        (self.self_play,) = (each for each in built.callbacks if isinstance(each, SelfPlay))
        (timer,) = (each for each in built.callbacks if isinstance(each, ValidationTimer))
        (ours,) = (each for each in built.callbacks if isinstance(each, RolloutEngine))
        self.engine: RolloutEngine = GenerateRollout(ours.max_sequences)
        if vllm:
            self.engine = VLLMRollout(EngineSettings(cache_gib=2.0), verify=False)
        self.trainer = Trainer(
            accelerator="cpu",
            logger=False,
            callbacks=[self.engine, timer],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=directory,
        )
        self.seconds: dict[str, float] = defaultdict(float)
        for role in self.module.roles.values():
            role.vlm.__class__ = type("Plain", (Plain, type(role.vlm)), {})
            role.vlm.load()
        self.engine.load(self.module.reasoner.vlm)  # starts it
        self.data.prepare_data()
        self.data.setup("fit")

    def run(self) -> dict[str, float]:
        """Validate, learn to ask, curate, learn to answer, and validate; returns ``seconds``."""
        with self.engine.kept():
            self._run()
        return self.seconds

    def _run(self) -> None:
        module, curation = self.module, self.self_play.curation
        self.validate()
        sources = PhaseSources(module)
        sources.source = sources.over_run("images", self.data.images)
        self.learn(module.questioner, sources)
        module.phase = module.phase.following([*module.roles])
        sources = PhaseSources(module)
        why_not = partial(module.questioner.why_not_asked, template=curation.template)
        images = sources.over_run("images", self.data.images, why_not)
        dataset, record = Curator(curation, self.trainer, module).generate(images)
        self.seconds |= {f"curation/{stage}": seconds for stage, seconds in record["seconds"].items()}
        sources.source = sources.within_phase("generated", dataset, "order")
        self.learn(module.reasoner, sources)
        self.validate()

    def validate(self) -> None:
        """Answer the benchmarks, greedily and by sampling."""
        self.trainer.validate(self.module, datamodule=self.data, verbose=False)

    def learn(self, role: Role, sources: PhaseSources) -> None:
        """Have TRL's trainer take the steps of a role's phase on what is drawn for them."""
        config, clock = role.config, role.clock
        items = sources.draw(config.steps * config.prompts_per_step)
        trainer = _TimedTrainer(
            model=role.vlm.model,
            reward_funcs=self._reward(role, items),
            args=self._configure(role),
            train_dataset=Dataset.from_list([_row(role, n, item) for n, item in enumerate(items)], features=FEATURES),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.clock = clock
        clock.drain()
        with clock("train"):
            trainer.train()
        seconds = clock.drain()
        role.vlm.version += trainer.state.global_step
        self.seconds[f"{role.name}/rollout"] = seconds["rollout"]
        self.seconds[f"{role.name}/update"] = seconds["train"] - seconds["rollout"] - seconds["reward"]
        if "votes" in seconds:
            self.seconds[f"{role.name}/votes"] = seconds["votes"]

    def _configure(self, role: Role) -> Any:
        config = role.config
        settings = TRLSettings(
            config.group_size, config.max_new_tokens, None, "float32", tuple(role.vlm.banned_token_ids.tolist())
        )
        return make_config(
            self.directory / role.name,
            config.prompts_per_step * config.group_size,
            settings,
            max_steps=config.steps,
            model_init_kwargs=None,
            seed=self.module.seed,
            loss_type="grpo",
            beta=config.kl_weight,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            adam_beta1=config.betas[0],
            adam_beta2=config.betas[1],
            max_grad_norm=config.max_grad_norm,
            temperature=config.temperature,
        )

    def _reward(self, role: Role, items: Sequence) -> Callable[..., list[float]]:
        group = role.config.group_size

        def reward(completion_ids: list[list[int]], number: list[int], trainer_state: Any, **_: Any) -> list[float]:
            asked = [items[n] for n in number[::group]]
            sampled = [read(role.vlm, ids) for ids in completion_ids]
            groups = tuple(tuple(sampled[start : start + group]) for start in range(0, len(sampled), group))
            rollout = Rollout(tuple(role.prompts(asked)), groups)
            with role.clock("reward"):
                seed = self.module.stage_seed("step", trainer_state.global_step)
                return role.judge(asked, rollout, seed).rewards.flatten().tolist()

        return reward


def _row(role: Role, number: int, item: UnlabeledImage | Example) -> dict[str, Any]:
    fields = {"question": item.problem} if isinstance(item, Example) else {}
    system, user = role.template.system, role.template.user.format(**fields)
    messages = [] if system is None else [{"role": "system", "content": system}]
    return {"prompt": [*messages, {"role": "user", "content": user}], "image": item.image, "number": number}
