"""A further role, and a role of another name, are subclasses: nothing of the package knows the names of roles."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from helpers import Scripted, image_number
from runs import CONFIG, CURATION, STEPS, fit, script
from visplay.callbacks import Export, SelfPlay
from visplay.commands.export import find_checkpoint
from visplay.modules import Questioner, QuestionFormat, Qwen2_5_VL, Reasoner, Role, VisPlay, Voting
from visplay.modules.role import distinct_keys
from visplay.tiny import ANSWER, ASK, BASE
from visplay.types import Judgement


class Namer(Role):
    """Names the number of an image; paid for every second completion."""

    name = "namer"
    learns_from = "images"

    @property
    def validated(self):
        return None

    def prompts(self, items, template=None):
        keyed = zip(distinct_keys(items), items, strict=True)
        return [self.vlm.encode(key, template or self.template, item.image) for key, item in keyed]

    def judge(self, items, rollout, seed):
        pairs = zip(items, rollout.completions, strict=True)
        rewards = [[float(str(image_number(item.image)) in c.text) for c in group] for item, group in pairs]
        return Judgement(torch.tensor(rewards), {"named_fraction": 0.5}, ())


class Trio(VisPlay):
    """VisPlay with a role between the two."""

    def __init__(self, vlm, questioner, reasoner, namer, seed=0):
        super().__init__(vlm, questioner, reasoner, seed)
        self.namer = namer
        namer.adopt(vlm.unloaded(), self.clock)
        namer.grader = reasoner.grader

    @property
    def roles(self):
        return {role.name: role for role in (self.questioner, self.namer, self.reasoner)}


class Challenger(Questioner):
    name = "challenger"


class Solver(Reasoner):
    name = "solver"


def _say(policy, prompt, text, sample):
    if policy == "namer":
        return str(image_number(prompt.images[0])) if sample % 2 else "x"
    return script({"challenger": "questioner", "solver": "reasoner"}.get(policy, policy), prompt, text, sample)


def _module(questioner=Questioner, reasoner=Reasoner):
    asks, answers = questioner(CONFIG, ASK, QuestionFormat(kinds=None)), reasoner(CONFIG, ANSWER, Voting(votes=4))
    return Qwen2_5_VL(str(BASE)), asks, answers


def _fit(root, module, ckpt_path=None, iterations=2, callbacks=()):
    keep = ModelCheckpoint(root / "checkpoints", filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    self_play = SelfPlay(iterations, CURATION)
    return fit(
        root,
        module=module,
        engine=Scripted(_say),
        self_play=self_play,
        callbacks=[keep, *callbacks],
        ckpt_path=ckpt_path,
    )


def test_three_roles_take_turns_and_a_run_continues_between_them(tmp_path):
    def trio():
        return Trio(*_module(), Namer(ASK, CONFIG, None, 0))

    _, whole, self_play = _fit(tmp_path / "whole", trio())
    assert [role.vlm.version for role in whole.roles.values()] == [2 * STEPS] * 3
    assert (self_play.phase.iteration, self_play.phase.role) == (3, "questioner")
    metrics = (tmp_path / "whole" / "run" / "version_0" / "metrics.csv").read_text().splitlines()[0]
    assert "namer/named_fraction" in metrics
    _, again, _ = _fit(tmp_path / "again", trio(), tmp_path / "whole" / "checkpoints" / "epoch=1.ckpt")
    for (name, weight), other in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(weight, other), name


def test_roles_of_other_names(tmp_path):
    export = Export(directory=str(tmp_path / "exports"))
    _, module, self_play = _fit(tmp_path, VisPlay(*_module(Challenger, Solver)), iterations=1, callbacks=[export])
    assert self_play.phase.steps_before == {"challenger": STEPS, "solver": STEPS}
    assert self_play.statistics["kept"] == 8
    assert {path.name for path in (tmp_path / "exports" / "iteration-1").iterdir()} == {"challenger", "solver"}
    assert find_checkpoint(tmp_path, "solver", None).iteration == 1
    with pytest.raises(KeyError):
        _ = module.roles["questioner"]
