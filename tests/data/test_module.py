import pytest
from lightning import Trainer

from helpers import plain_image
from visplay.data.benchmarks.benchmark import Benchmark
from visplay.data.fingerprints import fingerprint_data
from visplay.data.module import NoImages, SelfPlayData
from visplay.tiny.data import TinyWorld
from visplay.types import Example, UnlabeledImage


def _example(key):
    return Example(key, plain_image(1), "How many?", "1")


def test_a_directory_without_images_names_the_argument(tmp_path):
    with pytest.raises(ValueError, match=str(tmp_path)):
        SelfPlayData(tmp_path).setup("fit")


def test_no_benchmark_by_default(tmp_path):
    data = SelfPlayData(tmp_path)
    assert data.val_dataloader() == []
    assert data.silver_accuracy([_example("a")]) is None


def test_an_evaluation_without_benchmarks_is_refused_and_a_fit_goes_on(tmp_path):
    data = SelfPlayData()
    data.trainer = Trainer(logger=False, barebones=True)
    for stage in ("validate", "test"):
        with pytest.raises(ValueError, match="benchmarks: none to evaluate on; give data.benchmarks"):
            data.setup(stage)
    data.setup("fit")
    assert data.trainer.limit_val_batches == 0


def test_keys_of_a_benchmark_must_differ():
    with pytest.raises(ValueError, match="the keys of benchmark 'mine' must differ"):
        Benchmark("mine", [_example("a"), _example("a")])


def test_tiny_world_renders_only_if_no_directory_is_given(tmp_path):
    TinyWorld(cache=tmp_path / "a", n_images=3).prepare_data()
    TinyWorld(images=tmp_path / "a", cache=tmp_path / "b").prepare_data()
    assert len(list((tmp_path / "a").iterdir())) == 3
    assert not (tmp_path / "b").exists()


def test_tiny_world_validates_on_its_splits(tmp_path):
    data = TinyWorld(cache=tmp_path / "images", n_images=2, heldout_votes=4, heldout_questions=8)
    data.prepare_data()
    assert [(b.name, len(b), b.votes) for b in data.benchmarks()] == [
        ("heldout", 8, 4),
        ("compositional", 4, 0),
        ("hallucination", 4, 0),
    ]
    assert [example.key for loader in data.val_dataloader() for batch in loader for example in batch.examples][:2] == [
        "heldout/0",
        "heldout/1",
    ]


def test_silver_accuracy_is_unknown_for_other_images():
    assert TinyWorld(n_images=2).silver_accuracy([_example("a")]) is None


def test_without_images_there_are_items_to_ask_about():
    data = SelfPlayData(NoImages(3))
    data.setup("fit")
    assert data.images == [UnlabeledImage(key, None) for key in ("000000", "000001", "000002")]
    assert fingerprint_data(data) == {"images": {"count": 3}}
    with pytest.raises(ValueError, match="count: 0 must be at least 1"):
        NoImages(0)
