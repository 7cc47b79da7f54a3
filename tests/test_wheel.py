"""What is shipped: the wheel has all files of the package, installs without the repository, and runs there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

import gesta

ROOT = Path(__file__).parents[1]


def test_package_data_names_every_file() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    patterns = [pattern for patterns in settings["package-data"].values() for pattern in patterns]
    files = [
        path for path in (ROOT / "src" / "gesta").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
    ]
    missing = [path for path in files if not any(path.match(pattern) for pattern in patterns)]
    assert files and not missing, "give them to package-data in pyproject.toml"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of what git keeps: nothing that an earlier build left gets into it."""
    pytest.importorskip("build", reason="the extra dev is not installed")
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(copy / "dist"), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((copy / "dist").glob("*.tar.gz"))) == 1
    return next((copy / "dist").glob("*.whl"))


@pytest.mark.full  # builds it; test_package_data_names_every_file looks at the same
@pytest.mark.timeout(900)
def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {path for path in (ROOT / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    wanted = {path.relative_to(ROOT / "src").as_posix() for path in files if ".egg-info" not in str(path)}
    assert wanted <= names, "give what is missing to package-data in pyproject.toml"
    assert {name for name in names if ".dist-info/" not in name} == wanted
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.full  # builds it; test_package_data_names_every_file looks at the same
@pytest.mark.timeout(900)
def test_the_wheel_runs_in_an_environment_of_its_own(wheel: Path, tmp_path: Path) -> None:
    """Its dependencies are those of this environment, whose own gesta comes later in the path."""
    home = tmp_path / "home"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*words: str) -> str:
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert Path(run(str(python), "-c", "import gesta; print(gesta.__file__)").strip()).is_relative_to(packages)
    command = str(home / "bin" / "gesta")
    assert run(command, "--version").strip() == f"gesta {gesta.__version__}"
    assert "stan_mvitv2_s" in run(command, "models")  # reads costs.json
    assert '"epochs"' in run(command, "show", "demo")  # reads fields.json
    made = run(command, "demo", "--clips", "48", "--epochs", "1")  # the fewest that it takes: a minute and a half
    assert "with and without STAN" in made and (tmp_path / "runs" / "demo" / "report.html").stat().st_size > 1000
