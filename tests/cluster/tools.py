"""Where the programs of the cluster tests are: given by the environment, or built before."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The convention of controller-runtime's envtest: a folder with etcd, kube-apiserver and kubectl.
ASSETS = "KUBEBUILDER_ASSETS"


class MissingTools(Exception):
    """A program is nowhere; the message says how to get it."""


class Tools:
    """Paths of programs by their names, as `make cluster-tools` gives them."""

    def __init__(self) -> None:
        path = subprocess.run(
            [ROOT / "scripts/cluster-tools", "--path"], check=True, capture_output=True, text=True
        )
        self.built = Path(path.stdout.strip())
        self.assets = Path(os.environ[ASSETS]) if os.environ.get(ASSETS) else None

    def path(self, name: str) -> Path:
        """The program of this name: from KUBEBUILDER_ASSETS, otherwise a built one.

        Raises MissingTools.
        """
        for folder in (self.assets, self.built):
            if folder is not None and os.access(folder / name, os.X_OK):
                return folder / name
        raise MissingTools(
            f"{name} is not in {self.built}: run `make cluster-tools` (ten minutes on two cores"
            f" the first time), or name a folder that has it in {ASSETS}"
        )

    def crds(self, whose: str) -> Path:
        """The folder with the CRDs of a project, one in each file. Raises MissingTools."""
        folder = self.built / "crds" / whose
        if folder.is_dir():
            return folder
        raise MissingTools(f"{folder} is not there: run `make cluster-tools`")
