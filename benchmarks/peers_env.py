"""Make the virtual environment that holds the programs which `peers.py` measures facemill against.

    python benchmarks/peers_env.py DIR [--python PYTHON]

It takes some 7 GB and two minutes. PyTorch for x86-64 Linux comes with CUDA's libraries and does not load without them;
they are not used. facenet-pytorch 2.6.0 asks for PyTorch 2.2 and NumPy 1 but runs with today's, so it is installed
without its requirements. torchvision is the real one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = (
    "torch==2.13.0",
    "torchvision==0.28.0",
    "tensorflow-cpu==2.21.0",
    "keras==3.15.1",
    "numpy==2.4.6",
    "opencv-python-headless==5.0.0.93",
    "pillow==12.3.0",
    "joblib>=1.4.2",  # mtcnn's
    "lz4>=4.3.3",
    "requests",  # facenet-pytorch's, imported with its other networks
    "tqdm",
)
WITHOUT_REQUIREMENTS = ("facenet-pytorch==2.6.0", "mtcnn==1.0.0")
CHECK = "import facenet_pytorch, mtcnn, torch; facenet_pytorch.MTCNN(); mtcnn.MTCNN()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to make the environment")
    parser.add_argument("--python", default=sys.executable, help="the interpreter to make it with, 3.11 to 3.13")
    options = parser.parse_args()
    call(options.python, "-m", "venv", str(options.folder))
    python = str(options.folder / "bin" / "python")
    call(python, "-m", "pip", "install", *REQUIREMENTS)
    call(python, "-m", "pip", "install", "--no-deps", *WITHOUT_REQUIREMENTS)
    call(python, "-c", CHECK)  # loads the networks
    print(f"made {options.folder}; now: python benchmarks/peers.py FOLDER --peers-env {options.folder}")


def call(*command: str) -> None:
    if subprocess.run(command).returncode:
        sys.exit(f"failed: {' '.join(command)}")


if __name__ == "__main__":
    main()
