"""Data that self-play reads and writes: unlabeled images, labelled questions, generated examples, and benchmarks."""

from visplay.data.benchmarks.benchmark import Benchmark
from visplay.data.benchmarks.benchmark_files import write_benchmarks
from visplay.data.benchmarks.benchmark_sources import BenchmarkColumns, BenchmarkSource
from visplay.data.benchmarks.benchmark_suite import BenchmarkSuite
from visplay.data.benchmarks.benchmark_table import BenchmarkTable
from visplay.data.generated import FEATURES, GeneratedDataset, read_examples, write_examples
from visplay.data.images.decoding import ImageLimits, decode_image, to_rgb
from visplay.data.images.image_columns import count_images, read_images
from visplay.data.images.image_folder import ImageFolder, SkippedImage, UnusableItemError
from visplay.data.manifest import Manifest, Shards
from visplay.data.sources import open_table
from visplay.data.streams.image_stream import ImageStream, Streaming
from visplay.data.table_collections import Columns, ImageTable, LabelledTable, open_images

__all__ = [
    "FEATURES",
    "Benchmark",
    "BenchmarkColumns",
    "BenchmarkSource",
    "BenchmarkSuite",
    "BenchmarkTable",
    "Columns",
    "GeneratedDataset",
    "ImageFolder",
    "ImageLimits",
    "ImageStream",
    "ImageTable",
    "LabelledTable",
    "Manifest",
    "Shards",
    "SkippedImage",
    "Streaming",
    "UnusableItemError",
    "count_images",
    "decode_image",
    "open_images",
    "open_table",
    "read_examples",
    "read_images",
    "to_rgb",
    "write_benchmarks",
    "write_examples",
]
