import ast
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import analysis
import dst
import topo

ROOT = Path(__file__).parents[1]
PACKAGES = (topo, dst, analysis)
MODULES = sorted(
    info.name
    for package in PACKAGES
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
)
README = (ROOT / "README.md").read_text()


def run(*arguments, cwd=ROOT, **environment):
    return subprocess.run(
        arguments, cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("package", "absent"),
    [
        ("topo", {"torch", "matplotlib", "pandas", "igraph", "networkx", "dst", "analysis"}),
        (
            "dst",
            {
                "transformers",
                "lightning",
                "accelerate",
                "matplotlib",
                "analysis",
                "igraph",
                "networkx",
            },
        ),
        ("analysis", {"torch", "dst", "igraph", "networkx", "powerlaw"}),
    ],
)
def test_an_import_leaves_unloaded(package, absent, tmp_path):
    code = f"import sys, {package}; print(*sorted(set({sorted(absent)!r}) & sys.modules.keys()))"
    result = run(sys.executable, "-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""


ALLOWED = {"topo": {"topo"}, "dst": {"topo", "dst"}, "analysis": {"topo", "analysis"}}
BANNED = {"topo": {"torch", "matplotlib"}, "dst": {"matplotlib"}, "analysis": {"torch"}}


@pytest.mark.parametrize("name", MODULES)
def test_the_arrows_hold_in_every_line_of_source(name):
    module = importlib.import_module(name)
    own = name.split(".")[0]
    imported = set()
    for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            imported.add(node.module.split(".")[0])
    assert not imported & (set(ALLOWED) - ALLOWED[own])
    assert not imported & BANNED[own]


@pytest.mark.parametrize("name", [*ALLOWED, *MODULES])
def test_every_module_states_its_surface_and_documents_it(name):
    module = importlib.import_module(name)
    assert module.__doc__, "a module says what it is"
    assert len(Path(module.__file__).read_text().splitlines()) < 450, "one thing, one short file"
    for public in getattr(module, "__all__", ()):
        value = getattr(module, public)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, f"{name}.{public} has no docstring"
    if not name.endswith("_version"):
        assert hasattr(module, "__all__")


def public_functions():
    for package in PACKAGES:
        for name in package.__all__:
            value = getattr(package, name)
            if inspect.isfunction(value):
                yield f"{package.__name__}.{name}", value
            elif inspect.isclass(value):
                for method, member in inspect.getmembers(value):
                    if method.startswith("_") and method != "__init__":
                        continue
                    member = getattr(member, "__func__", member)
                    if inspect.isfunction(member) and member.__module__.split(".")[0] in ALLOWED:
                        yield f"{package.__name__}.{name}.{method}", member


@pytest.mark.parametrize(("name", "function"), list(public_functions()))
def test_public_signatures_are_typed(name, function):
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty, name
    for parameter in signature.parameters.values():
        if parameter.name not in ("self", "cls"):
            assert parameter.annotation is not inspect.Parameter.empty, f"{name}({parameter.name})"


def test_the_public_surface():
    assert set(topo.__all__) >= {
        "erdos_renyi", "small_world", "link_scores", "grow", "PREDICTORS", "Network", "percolate",
        "active_neuron_rate", "History",
    }  # fmt: skip
    assert set(dst.__all__) >= {"sparsify", "SparseLinear", "network", "Evolver", "METHODS"}
    assert set(analysis.__all__) >= {"summary", "power_law", "elm_overlap"}
    for package in PACKAGES:
        assert sorted(package.__all__) == sorted(set(package.__all__))
        assert package.__version__ == topo.__version__


def test_there_is_one_version_and_no_path_is_edited():
    literal = re.compile(rf'"{re.escape(topo.__version__)}"')
    files = [p for package in PACKAGES for p in Path(package.__path__[0]).rglob("*.py")]
    assert [p.name for p in files if literal.search(p.read_text())] == ["_version.py"]
    for file in (*files, *(ROOT / "tests").glob("*.py")):
        assert "sys" + ".path" not in file.read_text(), file
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("package", ["dst", "analysis"])
def test_a_foreign_topo_is_recognised(package, tmp_path):
    (tmp_path / "topo").mkdir()
    (tmp_path / "topo" / "__init__.py").write_text("")
    result = run(sys.executable, "-c", f"import {package}", cwd=tmp_path)
    assert result.returncode == 1
    message = result.stderr.splitlines()[-1]
    assert message.startswith(f"ImportError: {package} {topo.__version__} needs its sibling")
    assert str(tmp_path) in message
    assert "rename that folder" in message


def test_the_wheel(tmp_path):
    build = run(
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(ROOT),
    )
    assert build.returncode == 0, build.stderr
    (wheel,) = tmp_path.glob("epitopo-*.whl")
    assert wheel.name.split("-")[1] == topo.__version__
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    top = {n.split("/")[0] for n in names if ".dist-info/" not in n}
    assert top == {"topo", "dst", "analysis"}
    assert {"dst/registry.toml", "topo/py.typed"} <= set(names)
    page = {f"analysis/report_page/{name}" for name in ("page.html", "page.css", "slider.js")}
    assert page <= set(names)
    metadata = next(p for p in (tmp_path / "site").glob("*.dist-info")) / "METADATA"
    assert "License-Expression: Apache-2.0" in metadata.read_text()
    # `epitopo data` works from the wheel's own files
    code = (
        "import dst, dst.__main__ as m, dst.datasets as d;"
        "print(d.__file__); raise SystemExit(m.main(['data']))"
    )
    listed = run(sys.executable, "-c", code, cwd=tmp_path / "site")
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.startswith(str(tmp_path / "site"))
    assert "fashion-mnist" in listed.stdout


def test_console_scripts(tmp_path):
    for script in ("epitopo", "epitopo-analysis"):
        result = run(str(Path(sys.executable).parent / script), "--version", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip() == f"{script} {topo.__version__}"


def test_make_help_lists_the_targets():
    result = run("make", "help")
    assert {line.split()[1] for line in result.stdout.splitlines()} >= {
        "demo", "test", "lint", "gpu", "help",
    }  # fmt: skip


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_readme_shows_the_demos_table():
    (table,) = blocks("text")
    assert [line.split()[0] for line in table.splitlines()] == ["method", "dense", "SET", "CHTs"]


def test_the_readmes_python_runs(tmp_path):
    code = "\n".join(blocks("python"))
    result = run(sys.executable, "-W", "error", "-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "elm_overlap" in result.stdout


def test_the_readmes_commands_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for command in re.findall(r"\bmake ([a-z-]+)", " ".join(blocks("sh"))):
        assert command in targets
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README) + re.findall(
        r'src="([^"]+)"', README
    ):
        assert (ROOT / path).exists(), path
