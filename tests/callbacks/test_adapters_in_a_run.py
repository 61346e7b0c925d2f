"""Self-play with LoRA adapters, or one policy for both roles: what learns, what stays, and what a checkpoint holds."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from helpers import Scripted
from runs import CONFIG, CURATION, STEPS, fit, script
from visplay.callbacks import Diagnostics, Export, SelfPlay
from visplay.modules import LoRA, Questioner, QuestionFormat, Qwen2_5_VL, Reasoner, Tuning, VisPlay, Voting
from visplay.modules.policy.weights.model_source import ModelSource
from visplay.modules.policy.weights.saving import ExportFormat
from visplay.tiny import ANSWER, ASK, BASE

ADAPTERS = Tuning(["vision_tower"], LoRA(rank=2, alpha=4))


def make_module(tuning=ADAPTERS, *, shared_policy=False, **settings):
    config = replace(CONFIG, kl_weight=0.1, **settings)
    vlm = Qwen2_5_VL(str(BASE), tuning=tuning)
    questioner = Questioner(config, ASK, QuestionFormat(kinds=None))
    return VisPlay(vlm, questioner, Reasoner(config, ANSWER, Voting(votes=4)), 0, shared_policy)


def script_by_prompt(policy, prompt, text, sample):
    """As ``script``, for a policy that asks and answers."""
    return script("reasoner" if "What is" in text else "questioner", prompt, text, sample)


def adapter(policy):
    return [weight.detach().clone() for weight in policy.trained_weights()]


@pytest.mark.parametrize("reference", ["phase_start", "base"])
def test_each_phase_trains_its_adapter_and_the_base_is_bit_identical(tmp_path, base, reference):
    seen = {}

    class Watch(SelfPlay):
        def on_train_epoch_start(self, trainer, pl_module):
            super().on_train_epoch_start(trainer, pl_module)
            roles = pl_module.questioner, pl_module.reasoner
            seen[pl_module.phase.role] = [adapter(role.vlm) for role in roles]
            assert pl_module.role.learner.reference.model is pl_module.role.vlm.model

    module = make_module(kl_reference=reference)
    fit(tmp_path, module=module, self_play=Watch(1, CURATION), callbacks=[Diagnostics(1, blind_questions=0)])
    before, between = seen["questioner"], seen["reasoner"]
    after = [adapter(role.vlm) for role in (module.questioner, module.reasoner)]
    same = [
        [all(map(torch.equal, a, b)) for a, b in zip(*pair, strict=True)]
        for pair in ((before, between), (between, after))
    ]
    assert same == [[False, True], [True, False]]
    assert module.questioner.vlm.version == module.reasoner.vlm.version == STEPS
    assert module.reasoner.vlm.base().fingerprint() == base.fingerprint()
    found = dict(module.reasoner.vlm.base().weights())
    assert all(weight.equal(found[name]) for name, weight in base.weights())
    names = {name for name, _ in module.named_parameters() if ".lora_" in name}
    assert {name.split(".lora_")[1].split(".")[1] for name in names} == {"questioner", "reasoner"}  # no reference


def _checkpoints(root):
    return ModelCheckpoint(root / "ckpt", filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)


@pytest.mark.parametrize("shared_policy", [False, True])
def test_a_run_is_resumed_exactly_from_a_checkpoint_without_the_base(tmp_path, shared_policy):
    def run(root, ckpt=None):
        keep = _checkpoints(root)
        module = make_module(shared_policy=shared_policy)
        engine, self_play = Scripted(script_by_prompt), SelfPlay(1, CURATION)
        return fit(root, module=module, engine=engine, self_play=self_play, callbacks=[keep], ckpt_path=ckpt)[1]

    expected = run(tmp_path / "a")
    path = tmp_path / "a" / "ckpt" / "epoch=0.ckpt"
    state = torch.load(path, weights_only=True)["state_dict"]
    assert state
    assert all(".lora_" in name for name in state)
    module = run(tmp_path / "b", path)
    for (name, weight), other in zip(expected.state_dict().items(), module.state_dict().values(), strict=True):
        assert torch.equal(weight, other), name
    assert not all(map(torch.equal, state.values(), module.state_dict().values()))


class Loads(Scripted):
    """Notes what is loaded, as an engine that copies weights does."""

    loads: list[tuple[str, int]]

    def load_weights(self, policy):
        self.loads = [*getattr(self, "loads", []), (policy.name, policy.version)]


@pytest.mark.parametrize("tuning", [Tuning(), ADAPTERS], ids=["whole", "adapter"])
def test_one_policy_learns_both_roles(tmp_path, tuning):
    """Its checkpoints and exports are of either role: the policy as it was after that role's phase."""
    module, engine = make_module(tuning, shared_policy=True), Loads(script_by_prompt)
    callbacks = [Export(str(tmp_path / "out"), ExportFormat("float32")), _checkpoints(tmp_path)]
    fit(tmp_path, module=module, engine=engine, self_play=SelfPlay(1, CURATION), callbacks=callbacks)
    assert module.questioner.vlm is module.reasoner.vlm
    assert module.reasoner.vlm.version == 2 * STEPS
    assert engine.loads == [("reasoner", version) for version in range(2 * STEPS)]
    like, found = Qwen2_5_VL(str(BASE), tuning=tuning), []
    for phase, role in enumerate(("questioner", "reasoner")):
        path = tmp_path / "ckpt" / f"epoch={phase}.ckpt"
        exported = dict(ModelSource(str(tmp_path / "out" / "iteration-1" / role)).load(like).weights())
        for taken in ("questioner", "reasoner"):
            loaded = dict(ModelSource(str(path), taken).load(like).weights())
            assert all(weight.equal(exported[name]) for name, weight in loaded.items())
        found.append(exported)
    sent = dict(module.reasoner.vlm.weights())
    assert all(weight.equal(found[1][name]) for name, weight in sent.items())
    assert not all(weight.equal(found[0][name]) for name, weight in sent.items())


@pytest.mark.parametrize("tuning", [Tuning(), ADAPTERS], ids=["whole", "adapter"])
@pytest.mark.parametrize("reference", ["phase_start", "base"])
def test_the_reference_of_one_policy_for_both_roles(tuning, reference):
    module = make_module(tuning, shared_policy=True, kl_reference=reference)
    module._trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"))
    module.configure_model()
    policy = module.reasoner.vlm
    base, seen = policy.base().fingerprint(), []
    for role in (module.questioner, module.reasoner):
        with torch.no_grad():
            for weight in policy.trained_weights():
                weight.add_(0.01)
        start = policy.fingerprint()
        role.learner.begin_phase(role.vlm, role.make_optimizer())
        with torch.no_grad():
            for weight in policy.trained_weights():
                weight.add_(0.01)
        seen.append(role.learner.reference.fingerprint())
        assert seen[-1] == (base if reference == "base" else start)
        assert policy.fingerprint() != start
        role.learner.end_phase(role.make_optimizer())
    assert (seen[0] == seen[1]) == (reference == "base")
