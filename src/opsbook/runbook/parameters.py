"""Parameters: read from the text of the tagged cell, and given values. Read with `ast`; never executed.

An annotation is the type, the comment behind it the help, and no default means required. Types are a closed set, so
that reading one can run nothing. What leaves here is of JSON types alone: a date is its ISO text and a secret its
reference; the notebook side turns them back by the same declarations (`convert`).
"""

from __future__ import annotations

import ast
import difflib
import io
import keyword
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from opsbook.errors import ParameterError
from opsbook.model.parameter import Binding, ParameterSpec
from opsbook.model.target import JsonValue, unstorable
from opsbook.redaction import PROMPT, SCHEMES, Secret, is_reference
from opsbook.runbook.annotation import KNOWN_TYPES, PLAIN_TYPES, label, read_annotation
from opsbook.runbook.param_magic import as_declaration

_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
EXAMPLES = {
    "int": "3",
    "float": "2.5",
    "bool": "true or false",
    "date": "2026-11-20",
    "datetime": "2026-11-20T11:39:58Z",
    "time": "11:39:58",
    "list": "a,b or [1, 2]",
    "dict": '{"a": 1}',
}
"""How a value of a type is written on a command line."""
SHELL_NAMES = frozenset(
    ("PATH", "HOME", "IFS", "SHELL", "USER", "PWD", "OLDPWD", "ENV", "UID", "EUID", "PPID", "LANG", "TERM", "CDPATH")
) | {"SHELLOPTS", "SHLVL", "GROUPS", "FUNCNAME", "OPTIND", "_"}
"""Names that would change the shell itself if a parameter of that name reached a script."""


def read_parameters(source: str) -> tuple[ParameterSpec, ...]:
    """Read the declarations from the source of a parameters cell.

    >>> [(p.name, p.type_label, p.is_required) for p in read_parameters('stack: Literal["dev", "prod"]  # Which')]
    [('stack', 'dev | prod', True)]

    Raises:
        ParameterError: the cell cannot be parsed, or a type is not one opsbook knows.
    """
    hint = "it declares, such as stack: str = 'dev'  # Stack to patch"
    try:
        plain, tree = _parse(source)
        return _declared(tree, _comments(plain))
    except (SyntaxError, ValueError, MemoryError) as error:
        where = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else str(error)
        raise ParameterError(f"the parameters cell is not valid Python: {where}", hint) from None
    except RecursionError:
        raise ParameterError("the parameters cell is not valid Python: nested too deeply", hint) from None


def _declared(tree: ast.Module, comments: Mapping[int, str]) -> tuple[ParameterSpec, ...]:
    """Return what the plain assignments of a cell declare, with the comments behind them."""
    specs: dict[str, ParameterSpec] = {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name, value, annotation = node.target.id, node.value, ast.unparse(node.annotation)
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name, value, annotation = node.targets[0].id, node.value, None
        else:
            continue
        required = value is None or (isinstance(value, ast.Constant) and value.value is Ellipsis)
        default = None if required or value is None else ast.unparse(value)
        specs[name] = _spec(name, annotation, default, comments.get(node.end_lineno or 0, ""))
    return tuple(specs.values())


def _parse(source: str) -> tuple[str, ast.Module]:
    """Parse a cell; where Python cannot read it, `%param` lines are read, and others of IPython's own left out."""
    try:
        return source, ast.parse(source)
    except SyntaxError:
        plain = "\n".join(map(_plain, source.split("\n")))
        return plain, ast.parse(plain)


def _plain(line: str) -> str:
    """Return a line as Python may have it."""
    return as_declaration(line) or ("" if line.lstrip().startswith(("%", "!")) else line)


def prompts_in(source: str) -> Iterator[str]:
    """Yield the references of the secrets a cell wants typed by name.

    >>> list(prompts_in('pin = secret("prompt:PIN")'))
    ['prompt:PIN']
    """
    try:
        nodes = ast.walk(_parse(source)[1]) if PROMPT in source else ()
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in nodes:
        if isinstance(node, ast.Call) and "secret" in {getattr(node.func, "id", ""), getattr(node.func, "attr", "")}:
            texts = (argument.value for argument in node.args if isinstance(argument, ast.Constant))
            yield from (text for text in texts if isinstance(text, str) and text.startswith(PROMPT))


def is_shell_name(name: str) -> bool:
    """Whether a variable of this name in a script would change the shell itself."""
    return name.startswith(("BASH", "LD_", "OPSBOOK")) or name in SHELL_NAMES


def _spec(name: str, annotation: str | None, default: str | None, comment: str) -> ParameterSpec:
    if is_shell_name(name):
        raise ParameterError(
            f"parameter {name!r} would replace the shell's own variable of that name on the targets",
            "give it another name, in lower case",
        )
    spec = ParameterSpec(name=name, annotation=annotation, default=default, help=comment)
    kind = type_of(spec)
    literal = _literal(default)
    if literal is not UNSET and literal is not None:
        _check(name, literal, kind, origin="its default")
    return msgspec.structs.replace(spec, type_label=label(kind), is_secret=kind is Secret)


def type_of(spec: ParameterSpec) -> Any:
    """Return the Python type a declaration stands for; without an annotation, the type of its literal default.

    Raises:
        ParameterError: the annotation is not one opsbook knows.
    """
    if spec.annotation is not None:
        try:
            return read_annotation(spec.annotation)
        except ValueError as error:
            message = f"parameter {spec.name!r}: opsbook does not know the type {spec.annotation}"
            raise ParameterError(message, f"known: {KNOWN_TYPES}") from error
    literal = _literal(spec.default)
    if literal is UNSET or literal is None:
        return Any
    name = type(literal).__name__
    return read_annotation(name if name in PLAIN_TYPES else "Any")


def _literal(default: str | None) -> Any:
    """Return the value of a literal default, or UNSET when there is none or it has to be computed."""
    if default is None:
        return UNSET
    try:
        return ast.literal_eval(default)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return UNSET


def _comments(source: str) -> dict[int, str]:
    """Map line numbers to the comment on that line."""
    found: dict[int, str] = {}
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                found[token.start[0]] = token.string.lstrip("#").strip()
    except (tokenize.TokenError, IndentationError):
        pass
    return found


def bind(
    specs: Iterable[ParameterSpec], texts: Mapping[str, str], values: Mapping[str, JsonValue], *, runbook: str
) -> Binding:
    """Convert what the caller gave (`texts` from flags, `values` from a file; flags win) by the declared types.

    Raises:
        ParameterError: a name is unknown, a value does not fit its type, or a required one is missing.
    """
    known = {spec.name: spec for spec in specs}
    for name in (*values, *texts):
        if name not in known:
            raise _unknown(name, known.values(), runbook)
    given = {name: _check(name, value, type_of(known[name])) for name, value in values.items()}
    given |= {name: _from_text(name, text, type_of(known[name])) for name, text in texts.items()}
    missing = [spec.name for spec in known.values() if spec.is_required and spec.name not in given]
    if missing:
        names = ", ".join(repr(name) for name in missing)
        flags = " ".join(f"-p {name}=…" for name in missing)
        plural = "s" if len(missing) > 1 else ""
        raise ParameterError(f"missing parameter{plural} {names}", f"{usage(known.values(), runbook)}; give {flags}")
    default = bind_defaults(known.values())
    bound = default.values | given
    return replace(default, given=given, values={name: bound[name] for name in known if name in bound})


def bind_defaults(specs: Iterable[ParameterSpec]) -> Binding:
    """Return the values parameters have when nobody gives any; those that are required, or computed, have none.

    Raises:
        ParameterError: a default does not fit its type.
    """
    known = tuple(specs)
    defaults = {spec.name: _default(spec) for spec in known}
    values = {name: value for name, value in defaults.items() if value is not UNSET}
    return Binding(values=values, secrets=tuple(spec.name for spec in known if spec.is_secret))


def _default(spec: ParameterSpec) -> JsonValue:
    """Return a literal default as JSON types; UNSET when there is none, or it has to be computed."""
    literal = _literal(spec.default)
    return literal if literal is None or literal is UNSET else _check(spec.name, literal, type_of(spec))


def usage(specs: Iterable[ParameterSpec], runbook: str) -> str:
    """Say in one line which parameters a runbook takes."""
    parts = []
    for spec in specs:
        choices = spec.type_label if " | " in spec.type_label else ""
        parts.append(f"{spec.name} ({choices.replace(' | ', '|')})" if choices else spec.name)
    return f"{runbook} takes: {', '.join(parts)}" if parts else f"{runbook} takes no parameters"


def _unknown(name: str, specs: Iterable[ParameterSpec], runbook: str) -> ParameterError:
    specs = tuple(specs)
    if not name.isidentifier() or keyword.iskeyword(name):
        return ParameterError(f"parameter name {name!r} is not an identifier", usage(specs, runbook))
    near = difflib.get_close_matches(name, [spec.name for spec in specs], n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    return ParameterError(f"unknown parameter {name!r}", guess + usage(specs, runbook))


def _from_text(name: str, text: str, kind: Any) -> JsonValue:
    """Convert a flag's text by the declared type; nothing is guessed where the type is text."""
    _refuse_unstorable(name, text)
    base = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    options = get_args(base) if get_origin(base) is Union else (base,)
    if text == "null" and type(None) in options:
        return None
    if str in options or base is Secret or get_origin(base) is Literal:
        words = get_args(base) if get_origin(base) is Literal else ()
        match = next((word for word in words if str(word) == text), text)
        return _check(name, match, kind)
    if bool in options and text.lower() in _TRUTH:
        return _check(name, _TRUTH[text.lower()], kind)
    if base is Any or any(get_origin(option) in {list, dict} for option in options):
        try:
            value = _structured(text, options)
        except RecursionError:
            raise ParameterError(f"parameter {name!r}: the value is nested too deeply", "give a flatter one") from None
        return _check(name, value, kind, lax=True)
    return _check(name, text, kind, lax=True)


def _structured(text: str, options: tuple[Any, ...]) -> JsonValue:
    """Read JSON; where a list is wanted, plain words between commas will do."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        wants_list = any(get_origin(option) is list for option in options)
        return [word.strip() for word in text.split(",") if word.strip()] if wants_list else text


def _check(name: str, value: Any, kind: Any, *, lax: bool = False, origin: str = "") -> JsonValue:
    """Return `value` as JSON types after it was found to fit `kind`."""
    if kind is Secret:
        if is_reference(value):
            return f"{PROMPT}{name}" if value == PROMPT else value
        schemes = ", ".join(f"{scheme}:" for scheme in SCHEMES)
        raise ParameterError(
            f"parameter {name!r} is a secret: a reference is needed, not a value", f"such as env:NAME; known: {schemes}"
        )
    _refuse_unstorable(name, value)
    try:
        fit = msgspec.to_builtins(msgspec.convert(value, kind, strict=not lax), str_keys=True)
    except (msgspec.ValidationError, TypeError) as error:
        shown = repr(value) if len(repr(value)) < 60 else f"{repr(value)[:57]}..."  # noqa: PLR2004  a line is short
        of = f" ({origin})" if origin else ""
        raise ParameterError(f"parameter {name!r}{of}: {shown} is not {_wanted(kind)}", _advice(value, kind)) from error
    _refuse_unstorable(name, fit)
    return fit


def _wanted(kind: Any) -> str:
    wanted = label(kind)
    return f"one of {wanted.replace(' | ', ', ')}" if get_origin(kind) is Literal else f"a {wanted}"


def _advice(value: Any, kind: Any) -> str:
    """Say what would have fitted."""
    if get_origin(kind) is Literal:
        near = difflib.get_close_matches(str(value), [str(word) for word in get_args(kind)], n=1)
        return f"did you mean {near[0]!r}?" if near else f"give {_wanted(kind)}"
    options = get_args(kind) if get_origin(kind) in {Union, Annotated} else (kind,)
    examples = (EXAMPLES.get(getattr(get_origin(option) or option, "__name__", "")) for option in options)
    return next((f"such as {example}" for example in examples if example), f"give {_wanted(kind)}")


def _refuse_unstorable(name: str, value: Any) -> None:
    if why := unstorable(value):
        raise ParameterError(f"parameter {name!r}: {why}", "give what JSON can hold")


def convert(spec: ParameterSpec, value: JsonValue, *, reveal: Any) -> Any:
    """Return a JSON value as its declared type, for the notebook: a date's text as a date, a reference as a Secret.

    Raises:
        ParameterError: the value does not fit.
    """
    kind = type_of(spec)
    if kind is Secret:
        return value if isinstance(value, Secret) else Secret(_check(spec.name, value, kind), reveal)
    if kind is Any:
        return value
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        raise ParameterError(f"parameter {spec.name!r}: {value!r} is not {_wanted(kind)}", str(error)) from None
