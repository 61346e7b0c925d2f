"""GRPO on labelled questions, without self-play: the Reasoner alone, on a table of images, questions and answers.

python -m examples.labelled

The table is any .parquet file, or a name on the Hub, with columns image, problem and answer (docs/data.md); here some
rows about the images of the small world are written.
"""

from pathlib import Path

from visplay.cli import run
from visplay.data.generated import write_examples
from visplay.tiny.self_play_images import labelled_examples


def main(table: str = "runs/labelled.parquet", *options: str, rows: int = 64) -> Path:
    """Train the Reasoner of ``--config tiny_labelled`` on a table, which is written unless it is there.

    Args:
        table: The table.
        *options: Of ``visplay fit``, over those of the configuration.
        rows: Questions to write.

    Returns:
        The directory of the run.
    """
    if not Path(table).is_file():
        write_examples(table, labelled_examples(rows, seed=0, questions_per_image=1))
    data = ["--data=visplay.data.module.SelfPlayData", f"--data.labelled={table}"]
    done = run(["fit", "--config=tiny_labelled", *data, *options])
    return Path(done.trainer.log_dir)


if __name__ == "__main__":
    main()
