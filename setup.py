"All else is in pyproject.toml. nbdev's index of the notebooks (a quarter of a megabyte) serves a clone, and no wheel."

from setuptools import setup
from setuptools.command.build_py import build_py


class WithoutIndex(build_py):
    "Takes every module but the index."

    def find_package_modules(self, package, package_dir):
        return [found for found in super().find_package_modules(package, package_dir) if found[1] != "_modidx"]


if __name__ == "__main__":
    setup(cmdclass={"build_py": WithoutIndex})
