"""Package metadata and dependencies of VisPlay (tool settings live in pyproject.toml)."""

from pathlib import Path

from setuptools import find_packages, setup

EXTRAS = {
    "vllm": ["vllm>=0.32,<0.33", "httpx>=0.28,<1"],
    "lora": ["peft>=0.18"],
    "judge": ["openai>=2"],
    "digits": ["scikit-learn>=1.6"],
    "gguf": ["gguf>=0.17"],
    "smolvlm2": ["num2words>=0.5.14"],
    "bench": ["trl==1.16.0", "matplotlib>=3.10,<4", "psutil>=6"],
    "dev": [
        "gguf>=0.17",
        "hypothesis>=6.100",
        "liger-kernel>=0.8.5,<0.9",
        "mypy>=1.15",
        "nltk>=3.9.1",
        "num2words>=0.5.14",
        "openai>=2",
        "peft>=0.18",
        "pre-commit>=4",
        "psutil>=6",
        "pytest>=8.3",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.8",
        "ruff>=0.12",
        "scikit-learn>=1.6",
        "types-PyYAML",
    ],
}

setup(
    name="visplay",
    version="0.1.0",
    description="Self-evolving vision-language models from unlabeled images, in PyTorch Lightning",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["visplay", "visplay.*"]),
    package_data={"visplay": ["py.typed"], "visplay.tiny": ["base/*"], "visplay.tiny.digits": ["base/*"]},
    install_requires=[
        "lightning>=2.6,<3",
        "torch>=2.9,<2.14",
        "torchvision>=0.24,<0.29",
        "transformers>=5.10.1,<5.20",
        "jsonargparse[signatures,omegaconf]>=4.51,<5",
        "omegaconf>=2.3",
        "torchmetrics>=1.8",
        "datasets>=5,<6",
        "fsspec>=2023.1",
        "pyarrow>=21",
        "pillow>=11",
        "tensorboard>=2.20",
        "numpy>=2",
        "scipy>=1.15",
        "math-verify>=0.9,<0.10",
        "pint>=0.25,<0.26",
        "text2num>=3,<4",
        "cn2an>=0.5.24,<0.6",
        "python-dateutil>=2.9",
        "rich>=14",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["visplay=visplay.__main__:main"]},
)
