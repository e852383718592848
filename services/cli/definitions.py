"""Definitions as files: which there are, what of a record stands in one, and their YAML.

    DIR/categories/general.yaml     DIR/events/nightly_backup.yaml     ...

The folder says the kind, the file's name the id. What the server sets is left out, so that the
same definition is the same file on every server. Knows nothing of servers.
"""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from domain.checks import SERVER_SET
from domain.facts import Json
from services.errors import StartupError

Type = Literal["category", "tag", "group", "plugin", "event"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of definition: its name in calls, and the folder, which is its plural there."""

    type: Type
    plural: str


# In the order in which they can refer to each other.
KINDS = (
    Kind("category", "categories"),
    Kind("tag", "tags"),
    Kind("group", "groups"),
    Kind("plugin", "plugins"),
    Kind("event", "events"),
)

_LEFT_OUT = SERVER_SET | {"id", "sort_order"}
# What people look for first stands first, what is long stands last, the rest by name.
_FIRST = "title enabled type category plugin command targets algo hostname_match expression".split()
_LAST = "params fields triggers limits actions script".split()
_ID = re.compile(r"\w+", re.ASCII)
_SUFFIX = ".yaml"


def portable(record: Json) -> Json:
    """What of a record stands in its file: nothing that the server sets, nothing that is empty."""
    kept = {
        key: value
        for key, value in record.items()
        if key not in _LEFT_OUT and value is not None and value not in ([], {})
    }
    return dict(sorted(kept.items(), key=lambda item: _place(item[0])))


def _place(key: str) -> tuple[int, int, str]:
    if key in _FIRST:
        return 0, _FIRST.index(key), ""
    return (2, _LAST.index(key), "") if key in _LAST else (1, 0, key)


# --- files -------------------------------------------------------------------------------------


def read_definitions(directory: Path) -> dict[Kind, dict[str, Json]]:
    """The records of each kind that has a folder there, by id.

    Raises StartupError with one sentence that names the file.
    """
    if not directory.is_dir():
        raise StartupError(f"There is no directory {directory}.")
    found: dict[Kind, dict[str, Json]] = {}
    for kind in KINDS:
        folder = directory / kind.plural
        if folder.is_dir():
            found[kind] = dict(_read(path) for path in _files(folder))
    if not found:
        names = ", ".join(kind.plural for kind in KINDS)
        raise StartupError(f"{directory} has none of the folders {names}.")
    return found


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.suffix in (_SUFFIX, ".yml") and not path.name.startswith("."):
            yield path


def _read(path: Path) -> tuple[str, Json]:
    try:
        record = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - it is safe
    except OSError as error:
        raise StartupError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise StartupError(f"{path} is not valid YAML: {_one_line(error)}.") from error
    if not isinstance(record, dict):
        raise StartupError(f"{path} must hold one definition: keys and their values.")
    id = record.pop("id", path.stem)
    if id != path.stem or not _ID.fullmatch(id):
        raise StartupError(f"{path} must be named after its id, which is {id!r}.")
    return id, record


def write_definition(directory: Path, kind: Kind, record: Json) -> Path:
    """Write the file of a record. Raises OSError, StartupError for an id that is no file name."""
    id = str(record.get("id"))
    if not _ID.fullmatch(id):
        raise StartupError(f"The {kind.type} {id!r} cannot be a file: its id is malformed.")
    path = directory / kind.plural / f"{id}{_SUFFIX}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text_of(portable(record)), encoding="utf-8")
    return path


def files_of_nothing(directory: Path, kind: Kind, ids: set[str]) -> list[Path]:
    """The files of a kind whose records are none of `ids`."""
    folder = directory / kind.plural
    return [path for path in _files(folder) if path.stem not in ids] if folder.is_dir() else []


def differences(before: Json | None, after: Json | None) -> Iterator[str]:
    """The lines of a unified diff between two portable records, without its head."""
    old, new = (text_of(one).splitlines() if one else [] for one in (before, after))
    for line in difflib.unified_diff(old, new, n=2, lineterm=""):
        if not line.startswith(("---", "+++")):
            yield line


def text_of(record: Json) -> str:
    """A record as YAML; texts of several lines as such."""
    return yaml.dump(
        record, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, indent=2
    )


# --- YAML --------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Reads YAML as JSON knows it: no dates, no `12:30` that is 750, no `on` that is true."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are texts, none of them twice."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if not all(isinstance(key, str) for key in keys):
            raise yaml.constructor.ConstructorError(None, None, "a key is no text", node.start_mark)
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            problem = f"the key {twice!r} is there twice"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"(?:~|null)?\Z"), ["~", "n", ""]
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(?:true|false)\Z"), list("tf"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"-?(?:0|[1-9][0-9]*)\Z"), list("-0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?\Z"),
    list("-0123456789"),
)


class _Dumper(yaml.SafeDumper):
    """Writes lists indented, repeats what is there twice, texts of several lines as blocks;
    lists of numbers take one line."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent the entries of lists too."""
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        """Never refer to an earlier part of the file."""
        return True


def _text_node(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _list_node(dumper: _Dumper, entries: list[Any]) -> yaml.SequenceNode:
    numbers = all(isinstance(entry, int | float) for entry in entries)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", entries, flow_style=numbers)


_Dumper.add_representer(str, _text_node)
_Dumper.add_representer(list, _list_node)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
