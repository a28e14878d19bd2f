"""The house: imports point one way, and nothing but generators knows an architecture."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import ptychi_neural
from ptychi_neural.generators import Generator, OneShotNetwork

PACKAGE = Path(ptychi_neural.__file__).parent
FILES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}

ROOMS = (
    "counted",
    *("options", "scans", "physics", "projections", "generators", "engine"),
    *("simulation", "evaluation", "training", "prediction", "runs", "comparison"),
    "integrations",
    *(
        "api",
        "earlier_names",
        "io",
        "workflows",
        "console",
        "arguments",
        "cli",
        "__init__",
        "__main__",
    ),
)
"""Folders and files of the package: each imports only from itself and from those before it."""

OF_ALL = {"__version__", "__file__"}
"""What every room may ask the package itself for."""

LONGEST_FILE = 450


def room_of(name):
    return Path(name).parts[0].removesuffix(".py")


def names_used(tree):
    """Line and dotted name of all of the package that a module imports, in functions too.

    Strings that begin with the package's name count: modules are imported by them.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found = [f"{node.value.id}.{node.attr}"]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = [node.value]
        else:
            continue
        for name in found:
            if name.startswith("ptychi_neural.") and name != "ptychi_neural.":
                yield node.lineno, name


def upward_imports(room, source):
    """Names of rooms after ``room`` that a module of it imports."""
    for line, name in names_used(ast.parse(source)):
        other = name.split(".")[1]
        if other in OF_ALL:
            continue
        if ROOMS.index(other) > ROOMS.index(room):
            yield f"{line}: {name}"


def test_a_room_imports_only_from_those_before_it():
    upward = {
        name: found
        for name, path in FILES.items()
        if (found := list(upward_imports(room_of(name), path.read_text())))
    }
    assert upward == {}


@pytest.mark.parametrize(
    "source",
    [
        "from ptychi_neural.engine.tasks import build_task",
        "from ptychi_neural import engine",
        "import ptychi_neural.engine.tasks as tasks",
        "def later():\n    from ptychi_neural.engine import tasks",
        "if TYPE_CHECKING:\n    from ptychi_neural.engine import tasks",
        "import ptychi_neural\nptychi_neural.engine",
        "import_module('ptychi_neural.engine')",
    ],
)
def test_every_way_to_import_from_a_later_room_is_seen(source):
    assert len(list(upward_imports("physics", source))) == 1
    assert list(upward_imports("engine", source)) == []


def asks_for_architecture(source, classes):
    """Comparisons with an architecture's name, and type tests for its class."""
    for node in ast.walk(ast.parse(source)):
        text = ast.unparse(node) if isinstance(node, ast.Call | ast.Compare | ast.Match) else ""
        if isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            names |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
            if function in ("isinstance", "issubclass", "type") and names & classes:
                yield f"{node.lineno}: {text}"
        elif isinstance(node, ast.Compare | ast.Match):
            subject = text if isinstance(node, ast.Compare) else ast.unparse(node.subject)
            if ".architecture" in subject or "Architectures." in text:
                yield f"{node.lineno}: {text}"


def subclasses(cls):
    for subclass in cls.__subclasses__():
        yield subclass.__name__
        yield from subclasses(subclass)


KNOWN_TO_GENERATORS = {"OneShot", "OneShotNetwork"} | {
    name for base in (Generator, OneShotNetwork) for name in subclasses(base)
}


def test_nothing_outside_of_the_generators_asks_which_architecture_one_is():
    asking = {
        name: found
        for name, path in FILES.items()
        if room_of(name) not in ("generators", "options")
        and (found := list(asks_for_architecture(path.read_text(), KNOWN_TO_GENERATORS)))
    }
    assert asking == {}


@pytest.mark.parametrize(
    "source",
    [
        "isinstance(network, Unrolled)",
        "isinstance(network, (int, one_shot.OneShot))",
        "issubclass(cls, CNN)",
        "options.generator.architecture == 'unrolled'",
        "chosen is napi.Architectures.CNN",
        "options.architecture in ('cnn', 'unrolled')",
        "match options.architecture:\n    case 'cnn':\n        pass",
    ],
)
def test_every_way_to_ask_for_an_architecture_is_seen(source):
    assert list(asks_for_architecture(source, KNOWN_TO_GENERATORS))


def test_no_file_is_too_long_to_be_read():
    lengths = {name: len(path.read_text().splitlines()) for name, path in FILES.items()}
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}


def importing(package):
    """Files that import another package."""
    return {
        name
        for name, path in FILES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for imported in [getattr(node, "module", None) or node.names[0].name]
        if imported.split(".")[0] == package
    }


def test_only_the_files_of_its_bricks_import_neuraloperator():
    assert importing("neuralop") == {"generators/spectral.py", "generators/operators.py"}


def test_scripts_that_need_no_spectral_layer_or_figure_do_not_wait_for_their_imports():
    """pty-chi itself imports matplotlib; no file of ours that does is imported with the api."""
    code = "import sys, ptychi_neural.api; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "ptychi_neural.engine.registration" in loaded
    drawing = {f"ptychi_neural.{n.removesuffix('.py')}" for n in importing("matplotlib")}
    assert drawing
    assert not loaded & {"neuralop", *(name.replace("/", ".") for name in drawing)}


@pytest.mark.parametrize("name", ["infer", "reconstruct", "train"])
def test_functions_of_runs_are_not_hidden_by_their_modules(name):
    module = importlib.import_module(f"ptychi_neural.runs.{name}")
    assert getattr(ptychi_neural.runs, name) is getattr(module, name)


FIRST_IMPORT = """
import importlib, multiprocessing, sys, torch  # Which takes longest, and is not of the circle.
sys.argv, fork = ["ptychi-neural"], multiprocessing.get_context("fork")
for name in {names}:
    alone = fork.Process(target=importlib.import_module, args=["ptychi_neural." + name])
    alone.start()
    alone.join()
    assert alone.exitcode == 0, name
"""


def test_commands_that_import_the_engine_late_come_into_pty_chis_circle_of_imports():
    """As ``ptychi-neural`` is started, nothing is imported with the package."""
    names = ["physics.centring", "engine.checks", "runs.orientations", "runs.tune"]
    code = FIRST_IMPORT.format(names=names)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
