"""Builds both packages: the library `qlora_kernels` and the application `qlora`."""

from setuptools import find_packages, setup

setup(
    packages=find_packages(include=["qlora_kernels*"]) + find_packages("python", include=["qlora*"]),
    package_dir={"qlora_kernels": "qlora_kernels", "qlora": "python/qlora"},
)
