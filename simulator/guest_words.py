"""A shell's grammar, as far as provisioning needs it: words, quotes, variables, lists, pipes and redirections."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Command", "Pipeline", "ShellSyntaxError", "Word", "parse"]

_REDIRECTION = re.compile(r"(?:([012])?(>>|>&|>|<)|(&>))")
_JOINTS = ("&&", "||", ";", "\n", "&")
_NAME = re.compile(r"\$(?:(\?)|\{(\w+)\}|(\w+))")


class ShellSyntaxError(Exception):
    """The command line is beyond the shell; the message says where."""


@dataclass(slots=True)
class Word:
    """Pieces of text, and whether variables in each are to be put in."""

    pieces: list[tuple[str, bool]] = field(default_factory=list)

    def text(self, value: Callable[[str], str]) -> str:
        """The word with its variables put in; `value` tells one by name, `?` the last status."""
        return "".join(
            _NAME.sub(lambda found: value(found[1] or found[2] or found[3]), text) if expand else text
            for text, expand in self.pieces
        )


@dataclass(slots=True)
class Command:
    """One program with its words, and its redirections as (stream, operator, where to)."""

    words: list[Word] = field(default_factory=list)
    redirections: list[tuple[str, str, Word]] = field(default_factory=list)


@dataclass(slots=True)
class Pipeline:
    """Commands that feed each other; `joint` says when it runs: `;` always, `&&` and `||` by what came before."""

    commands: list[Command] = field(default_factory=lambda: [Command()])
    joint: str = ";"


def parse(line: str) -> list[Pipeline]:
    """Raises `ShellSyntaxError`."""
    pipelines = [Pipeline()]
    at, size = 0, len(line)
    while at < size:
        char = line[at]
        if char in " \t":
            at += 1
            continue
        if char == "#":
            at = line.find("\n", at) if "\n" in line[at:] else size
            continue
        redirection = _REDIRECTION.match(line, at)
        if redirection is not None:
            stream = "&" if redirection[3] else redirection[1] or ("0" if redirection[2] == "<" else "1")
            target, at = _word(line, _skip(line, redirection.end()))
            pipelines[-1].commands[-1].redirections.append((stream, redirection[2] or ">", target))
            continue
        joint = next((found for found in _JOINTS if line.startswith(found, at)), None)
        if joint is not None:
            pipelines.append(Pipeline(joint=joint if joint in ("&&", "||") else ";"))
            at += len(joint)
            continue
        if char == "|":
            pipelines[-1].commands.append(Command())
            at += 1
            continue
        word, at = _word(line, at)
        pipelines[-1].commands[-1].words.append(word)
    for pipeline in pipelines:
        if len(pipeline.commands) > 1 and not all(command.words for command in pipeline.commands):
            raise ShellSyntaxError("syntax error near unexpected token `|'")
    return [pipeline for pipeline in pipelines if pipeline.commands[0].words or pipeline.commands[0].redirections]


def _skip(line: str, at: int) -> int:
    while at < len(line) and line[at] in " \t":
        at += 1
    return at


def _word(line: str, at: int) -> tuple[Word, int]:
    """The word that begins here, and where it ends."""
    word, begin = Word(), at
    while at < len(line) and line[at] not in " \t\n;|<>&":
        char = line[at]
        if char in "'\"":
            end = _closing(line, at)
            inner = line[at + 1 : end]
            word.pieces.append((inner, False) if char == "'" else (_unescaped(inner), True))
            at = end + 1
        elif char == "\\":
            word.pieces.append((line[at + 1 : at + 2], False))
            at += 2
        elif char == "`" or line.startswith("$(", at) or char in "()":
            raise ShellSyntaxError(f"syntax error near unexpected token `{line[at : at + 2]}'")
        else:
            end = at + 1
            while end < len(line) and line[end] not in " \t\n;|<>&'\"\\`()" and not line.startswith("$(", end):
                end += 1
            word.pieces.append((line[at:end], True))
            at = end
    # `>&1` names a stream.
    if at == begin and line[at : at + 1] == "&" and line[at + 1 : at + 2].isdigit():
        return Word([(line[at : at + 2], False)]), at + 2
    if at == begin:
        raise ShellSyntaxError(f"syntax error near unexpected token `{line[at : at + 1] or 'newline'}'")
    return word, at


def _closing(line: str, at: int) -> int:
    quote, end = line[at], at + 1
    while end < len(line) and line[end] != quote:
        end += 2 if quote == '"' and line[end] == "\\" else 1
    if end >= len(line):
        raise ShellSyntaxError(f"unexpected EOF while looking for matching `{quote}'")
    return end


def _unescaped(text: str) -> str:
    return re.sub(r'\\(["\\`])', r"\1", text)
