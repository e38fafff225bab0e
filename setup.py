"""Packaging of facemill: the top-level folders are the subpackages of the implicit namespace `facemill`."""

from pathlib import Path

from setuptools import setup

FOLDERS = {
    "facemill.pipeline": "pipeline",
    "facemill.pipeline.commands": "pipeline/commands",
    "facemill.pipeline.report": "pipeline/report",
    "facemill.pipeline.export": "pipeline/export",
    "facemill.transforms": "transforms",
    "facemill.transforms.ops": "transforms/ops",
    "facemill.models": "models",
    "facemill.configs": "configs",
}
# build and setuptools make the package that Beam stages for --setup_file.
DATAFLOW = ["apache-beam[gcp]>=2.77,<3", "build>=1", "gcsfs>=2024.6", "setuptools>=77"]
S3 = ["s3fs>=2024.6"]
AZURE = ["adlfs>=2024.7"]
DEMO = ["scikit-image>=0.22", "matplotlib>=3.8"]
OPENVINO = ["openvino>=2025.0"]
LMDB = ["lmdb>=1.4"]
BROWSER = ["selenium>=4.20"]
TEST = [*DEMO, *LMDB, "pytest>=8", "hypothesis>=6.100", "psutil>=5.9", "webdataset>=1.0"]
# What reads exports, besides TensorFlow, MXNet and torchvision, which tests take from where FACEMILL_READERS says.
READERS = ["datasets>=3", "tfrecord>=1.14"]

setup(
    name="facemill",
    version="0.1.0",
    description="From archives of photographs to aligned face crops and landmark tables, on Apache Beam.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.14",
    packages=list(FOLDERS),
    package_dir=FOLDERS,
    package_data={
        "facemill.configs": ["*.yaml", "runners/*.yaml"],
        "facemill.pipeline.report": ["*.css", "*.jinja", "*.js"],
    },
    install_requires=[
        "apache-beam>=2.77,<3",
        "duckdb>=1.1",
        "filelock>=3.29.7",  # from here on it heeds a lock's file that was removed, and removes none itself
        "fsspec[http]>=2024.6",
        "google-crc32c>=1.5",
        "jinja2>=3.1.5",
        "joblib>=1.4.2",
        "lz4>=4.3.3",
        "mtcnn==1.0.0",
        "numpy>=2",
        "onnx>=1.16",
        "onnxruntime>=1.18",
        "opencv-python-headless>=4.9",
        "pillow>=12.1.1",
        "pyarrow>=16",
        "pydantic>=2.7,<3",
        "pyyaml>=6",
        "simplejpeg>=1.8",
        "tenacity>=8.2",
        "tqdm>=4.66",
    ],
    extras_require={
        "demo": DEMO,
        "azure": AZURE,
        "cuda": ["onnxruntime-gpu[cuda,cudnn]>=1.21"],
        "dataflow": DATAFLOW,
        "gcs": ["gcsfs>=2024.6"],
        "heif": ["pillow-heif>=0.18"],
        "jxl": ["pillow-jxl-plugin>=1.3"],
        "lmdb": LMDB,
        "openvino": OPENVINO,
        "s3": S3,
        "test": TEST,
        "dev": [
            *TEST,
            *READERS,
            *OPENVINO,
            *DATAFLOW,
            *S3,
            *AZURE,
            *BROWSER,
            "moto[server]>=5",
            "mypy>=1.10",
            "ruff>=0.6",
        ],
    },
    entry_points={
        "console_scripts": [
            "facemill = facemill.pipeline.cli:main",
            "facemill-worker = facemill.pipeline.harness:main",
        ]
    },
)
