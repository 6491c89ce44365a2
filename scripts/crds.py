"""Write the CRDs of the operator's types: `python scripts/crds.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from baton_operator.crds.definitions import definitions

HEAD = "# Made from operators/baton_operator/types by `make crds`.\n"


class Dumper(yaml.SafeDumper):
    """Writes what is the same twice, since readers of CRDs want no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, definition in definitions().items():
        text = yaml.dump(definition, Dumper=Dumper, sort_keys=False, width=96, allow_unicode=True)
        (folder / f"{name}.yaml").write_text(HEAD + text)


if __name__ == "__main__":
    main()
