import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from visplay import late_imports
from visplay.late_imports import Late, LateName, defer_imports, is_whole

ROOT = Path(__file__).parent.parent
UNUSED = (
    *("torch._dynamo.utils", "torch._inductor.standalone_compile", "torch.distributed.tensor._ops", "matplotlib"),
    *("torchmetrics.text", "torchmetrics.functional", "torchvision.models.resnet", "torchvision.ops.roi_align"),
    *(
        "nltk",
        "scipy.cluster",
        "scipy.optimize._linprog",
        "scipy.signal",
        "scipy.stats",
        "sklearn.base",
        "triton.runtime",
    ),
    *("math_verify", "openai", "peft", "PIL.ImageTk", "textual", "trl", "vllm"),
    *("transformers.models.bert", "transformers.trainer", "visplay.commands.play", "visplay.viewing.look_app"),
)
FIRST_STEP = f"""
import sys
import transformers.modeling_utils
from lightning import Callback

OPENED = []
safe_open = transformers.modeling_utils.safe_open


def count(file, *args, **options):
    OPENED.append(file)
    return safe_open(file, *args, **options)


transformers.modeling_utils.safe_open = count


class FirstStep(Callback):
    def on_validation_batch_start(self, *args):
        print([name for name in {UNUSED} if name in sys.modules], len(OPENED))
        raise SystemExit
"""
ALL_OF_IT = """
from visplay.late_imports import defer_imports, is_whole

defer_imports()
import lightning, torch, transformers
from lightning.fabric.wrappers import _unwrap_compiled
from transformers import Qwen2_5_VLForConditionalGeneration

def step(x):
    return x + 1

linear = torch.nn.Linear(2, 2)
optimizer = torch.optim.SGD(linear.parameters(), lr=0.1)
assert not is_whole("torch._dynamo") and _unwrap_compiled(linear)[0] is linear
compiled = torch.compile(linear, backend="eager")
compiled(torch.ones(1, 2)).sum().backward()
optimizer.step()
assert is_whole("torch._dynamo") and _unwrap_compiled(compiled)[0] is linear
assert torch.compile(step, backend="eager")(torch.zeros(1)) == 1
assert not is_whole("torchmetrics")
import torchmetrics
from torchmetrics.text import BLEUScore
assert torchmetrics.Accuracy("binary")(torch.tensor([1.0]), torch.tensor([1])) == 1
assert issubclass(BLEUScore, torchmetrics.Metric) and is_whole("torchmetrics")
from sklearn.metrics import accuracy_score
assert accuracy_score([1], [1]) == 1
from torchvision.models import resnet18
from torchvision.ops import nms
assert nms(torch.tensor([[0.0, 0, 1, 1]]), torch.ones(1), 0.5) == 0
from transformers.models import Qwen2Config
from torch.distributed.tensor import DTensor
from torch.distributed.fsdp import FSDPModule
assert isinstance(DTensor, type) and isinstance(FSDPModule, type)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that is made late, for what a module named ``asker`` takes; gives how often its code has run."""
    (tmp_path / "late_one").mkdir()
    (tmp_path / "late_one" / "__init__.py").write_text(
        "import late_one_runs\nlate_one_runs.RUNS.append(1)\nfrom late_one.inner import Inner\nwhole = 1\n"
    )
    (tmp_path / "late_one" / "inner.py").write_text("class Inner: pass\n")
    (tmp_path / "late_one" / "apart.py").write_text("value = 2\n")
    (tmp_path / "late_one_runs.py").write_text("RUNS = []\n")
    (tmp_path / "asker.py").write_text("from late_one import Inner\n")
    monkeypatch.syspath_prepend(tmp_path)
    late = Late(("asker",), {"Inner": lambda name: LateName("late_one", name)}, apart=("late_one.apart",))
    monkeypatch.setattr(late_imports, "LATE", {"late_one": late})
    monkeypatch.setattr(sys, "meta_path", sys.meta_path[:])
    defer_imports()
    yield importlib.import_module("late_one_runs").RUNS
    for name in [name for name in sys.modules if name.startswith("late_one") or name == "asker"]:
        del sys.modules[name]


def test_a_package_does_not_run_for_what_is_named(package):
    import asker
    import late_one.apart

    assert late_one.apart.value == 2
    assert not isinstance(3, asker.Inner)
    assert package == []
    assert not is_whole("late_one")


def test_it_runs_once_for_anything_else(package):
    import late_one

    assert late_one.whole == 1
    assert late_one.whole == 1
    assert package == [1]
    assert is_whole("late_one")


def test_a_name_that_was_taken_is_the_same_class(package):
    import asker
    import late_one

    assert late_one.whole
    assert isinstance(late_one.Inner(), asker.Inner)
    assert isinstance(asker.Inner(), late_one.Inner)

    class Derived(asker.Inner):
        pass

    assert issubclass(Derived, late_one.Inner)


def test_whoever_is_not_named_is_given_the_whole(package):
    from late_one import Inner

    assert isinstance(Inner, type)
    assert package == [1]


def test_a_submodule_is_imported_after_its_package(package):
    from late_one.inner import Inner

    assert package == [1]
    assert sys.modules["late_one"].Inner is Inner


def test_all_names_of_it_are_imported(package):
    names: dict[str, object] = {}
    exec("from late_one import *", names)
    assert names["whole"] == 1


def test_there_is_no_more_in_it_than_there_is(package):
    import late_one

    with pytest.raises(AttributeError, match="late_one.*nothing"):
        late_one.nothing  # noqa: B018
    assert package == [1]


def test_an_error_of_its_code_is_raised_each_time(package, tmp_path):
    (tmp_path / "late_one" / "__init__.py").write_text("raise ImportError('broken')\n")
    import late_one

    for _ in range(2):
        with pytest.raises(ImportError, match="broken"):
            late_one.whole  # noqa: B018
    assert not is_whole("late_one")


def test_of_the_real_packages_there_is_all():
    subprocess.run([sys.executable, "-W", "ignore", "-c", ALL_OF_IT], check=True, cwd=ROOT)


def test_the_first_step_needs_one_reading_of_the_weights_and_no_more_modules(tmp_path, monkeypatch):
    (tmp_path / "first_step.py").write_text(FIRST_STEP)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    sizes = ["--data.n_images=8", "--data.heldout_questions=4", "--model.vlm.path=visplay/tiny/base"]
    line = [sys.executable, "-m", "visplay", "fit", "--config=tiny", f"--trainer.default_root_dir={tmp_path}", *sizes]
    out = subprocess.run(
        [*line, "--trainer.callbacks+=first_step.FirstStep"], capture_output=True, text=True, cwd=tmp_path
    )
    assert out.stdout.splitlines()[-1:] == ["[] 1"], out.stderr[-2000:]
