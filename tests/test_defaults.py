from pathlib import Path

import yaml

from visplay.cli import instantiate
from visplay.commands.settings.defaults import changed_settings
from visplay.provenance import flatten

TINY = Path(__file__).parents[1] / "configs/tiny.yaml"


def test_what_a_configuration_changes():
    cli = instantiate([f"--config={TINY}", "--model.seed=0", "--trainer.max_steps=-1", "--trainer.logger.name=mine"])
    parser, config = cli._parser("fit"), cli.config["fit"]
    settings = flatten(yaml.safe_load(parser.dump(config, skip_none=False)))
    defaults = flatten(yaml.safe_load(parser.dump(parser.get_defaults(), skip_none=False, skip_validation=True)))
    changed = changed_settings(settings, defaults)
    assert changed["model.questioner.grpo.steps"] == (10, 20)
    assert changed["model.questioner.reward.combine"] == (
        "visplay.functional.signed_questioner_rewards",
        "visplay.functional.questioner_rewards",
    )
    assert changed["self_play.curation.images"] == (256, 1000)
    of_questioner = {name for name in changed if name.startswith("model.questioner.grpo.")}
    assert of_questioner == {
        f"model.questioner.grpo.{name}"
        for name in (
            *("steps", "start_from", "prompts_per_step", "max_new_tokens", "learning_rate", "weight_decay"),
            "kl_weight",
        )
    }  # prompts_per_update is null, betas is as the class has it
    assert not [
        name for name in changed if name.startswith(("trainer.logger", "trainer.max", "checkpoint", "model.seed"))
    ]
