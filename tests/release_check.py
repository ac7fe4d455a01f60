"""What `make release-check` does: build sdist and wheel, and use the wheel in an empty environment, away from the repository.

Not a test of the suite: it installs torch anew, which takes minutes and some gigabytes.
"""

import re
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
IN_SDIST = [
    "tests/test_packaging.py",
    "docs/index.md",
    "demos/parity/__main__.py",
    "CITATION.cff",
    "Makefile",
    "cuda_ext/dmm.cu",
]
DOCTESTS = """
import doctest, importlib, pathlib, difflayers
root = pathlib.Path(difflayers.__file__).parent
tried = 0
for path in sorted(root.rglob("*.py")):
    if ">>>" in path.read_text(encoding="utf-8"):
        name = ".".join(("difflayers", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
        results = doctest.testmod(importlib.import_module(name))
        assert not results.failed, name
        tried += results.attempted
print(tried, "lines of examples ran in", root)
"""


def run(*command: str | Path, cwd: Path = ROOT) -> None:
    print("$", *(str(part).partition("\n")[0] for part in command), flush=True)
    subprocess.run([str(part) for part in command], check=True, cwd=cwd)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        away = Path(folder)
        built = away / "dist"
        run(sys.executable, "-m", "build", "--outdir", built, ROOT)
        run(sys.executable, "-m", "twine", "check", "--strict", *sorted(built.iterdir()))
        (sdist,), (wheel,) = built.glob("*.tar.gz"), built.glob("*.whl")
        with tarfile.open(sdist) as archive:
            held = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
        assert not (missing := [name for name in IN_SDIST if name not in held]), missing
        venv.create(away / "env", with_pip=True)
        python = away / "env" / "bin" / "python"
        run(python, "-m", "pip", "install", "--quiet", f"{wheel}[verify,maxsat]")
        run(python, "-m", "pip", "check")
        run(python, "-c", DOCTESTS, cwd=away)
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        examples = "\n".join(re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL))
        run(python, "-W", "error", "-c", examples, cwd=away)
    print("ready")


if __name__ == "__main__":
    main()
