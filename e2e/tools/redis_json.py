"""A stand-in for a Redis server with RedisJSON and RediSearch, which no package registry has: fakeredis, whose keys,
scripts and JSON.SET are its own, and the little of RediSearch that state.redis uses, made here, as is JSON.GET, which
fakeredis answers differently from the server.

usage: redis_json.py PORT

FT.CREATE and FT.DROPINDEX keep indexes; FT.SEARCH answers in RESP 2's form. Texts match if they have all the words.
"""

import json
import re
import sys

from fakeredis import TcpFakeServer
from fakeredis._commands import Key, command
from fakeredis._helpers import OK, SimpleError
from fakeredis._socket._fakesocket import FakeSocket

INDEXES = {}


def at(document, path):
    for part in path.removeprefix("$.").split("."):
        document = document.get(part) if isinstance(document, dict) else None
    return document


class Search:
    """A query's text, compiled by recursive descent to a predicate over documents."""

    def __init__(self, text, fields):
        self.tokens = re.findall(r"@\w+:\[[^\]]*\]|@\w+:\((?:\\.|[^)])*\)|[()|\-*]", text)
        self.fields = fields
        rest = re.sub(r"@\w+:\[[^\]]*\]|@\w+:\((?:\\.|[^)])*\)|[()|\-* ]", "", text)
        if rest:
            raise SimpleError(f"Syntax error near {rest}")
        self.matches = self.either()
        if self.tokens:
            raise SimpleError(f"Syntax error near {self.tokens[0]}")

    def either(self):
        parts = [self.both()]
        while self.tokens and self.tokens[0] == "|":
            self.tokens.pop(0)
            parts.append(self.both())
        return lambda document: any(part(document) for part in parts)

    def both(self):
        parts = []
        while self.tokens and self.tokens[0] not in ("|", ")"):
            parts.append(self.one())
        return lambda document: all(part(document) for part in parts)

    def one(self):
        token = self.tokens.pop(0)
        if token == "*":
            return lambda _: True
        if token == "-":
            inner = self.one()
            return lambda document: not inner(document)
        if token == "(":
            inner = self.either()
            self.tokens.pop(0)
            return inner
        alias, condition = token[1:].split(":", 1)
        path = self.fields[alias]
        if condition.startswith("["):
            low, high = condition[1:-1].split()
            return lambda document: within(at(document, path), low, high)
        choices = [choice.replace("\\", "").lower().split() for choice in condition[1:-1].split("|")]
        return lambda document: any(
            set(choice) <= set(str(at(document, path)).lower().split()) for choice in choices
        )


def within(value, low, high):
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    above = value > float(low[1:]) if low.startswith("(") else value >= float(low)
    below = value < float(high[1:]) if high.startswith("(") else value <= float(high)
    return above and below


def words(arguments):
    return [argument.decode() if isinstance(argument, bytes) else argument for argument in arguments]


@command(name="INFO", fixed=(), repeat=(bytes,))
def ft_info(self, *sections):
    return b"# Replication\r\nrole:master\r\nconnected_slaves:0\r\n"


@command(name="JSON.GET", fixed=(Key(),), repeat=(bytes,))
def ft_get(self, key, *paths):
    if key.value is None:
        return None
    if not isinstance(key.value, dict) or not all(isinstance(name, str) for name in key.value):
        raise SimpleError("Existing key has wrong Redis type")
    if not paths:
        return json.dumps(key.value, separators=(",", ":")).encode()
    name = paths[0].decode().removeprefix(".")
    if name not in key.value:
        raise SimpleError(f"Path '.{name}' does not exist")
    return json.dumps(key.value[name]).encode()


@command(name="FT.CREATE", fixed=(bytes,), repeat=(bytes,))
def ft_create(self, name, *arguments):
    name, arguments = name.decode(), words(arguments)
    if name in INDEXES:
        raise SimpleError("Index already exists")
    assert arguments[:3] == ["ON", "JSON", "SCHEMA"], arguments
    fields = arguments[3:]
    assert len(fields) % 5 == 0, fields
    INDEXES[name] = {fields[n + 2]: fields[n] for n in range(0, len(fields), 5)}
    return OK


@command(name="FT.DROPINDEX", fixed=(bytes,))
def ft_drop(self, name):
    if INDEXES.pop(name.decode(), None) is None:
        raise SimpleError("Unknown Index name")
    return OK


@command(name="FT.SEARCH", fixed=(bytes, bytes), repeat=(bytes,))
def ft_search(self, name, query, *arguments):
    fields = INDEXES.get(name.decode())
    if fields is None:
        raise SimpleError(f"{name.decode()}: no such index")
    arguments = words(arguments)
    matches = Search(query.decode(), fields).matches
    found = []
    for key in list(self._db):
        document = self._db[key].value
        if isinstance(document, dict) and matches(document):
            found.append((key, document))
    found.sort()
    skip, limit = 0, 10
    while arguments:
        word = arguments.pop(0)
        if word == "SORTBY":
            path = fields[arguments.pop(0)]
            down = arguments[:1] == ["DESC"]
            if down:
                arguments.pop(0)
            found.sort(key=lambda pair: (at(pair[1], path) is None, at(pair[1], path)), reverse=down)
        elif word == "LIMIT":
            skip, limit = int(arguments.pop(0)), int(arguments.pop(0))
        else:
            assert [word, *arguments] == ["RETURN", "2", "$.data", "$.version"], arguments
            break
    answer = [len(found)]
    for key, document in found[skip : skip + limit]:
        data = json.dumps(document.get("data"), separators=(",", ":")).encode()
        answer += [key, [b"$.data", data, b"$.version", str(document.get("version")).encode()]]
    return answer


for function in (ft_info, ft_get, ft_create, ft_drop, ft_search):
    setattr(FakeSocket, function.__name__, function)

TcpFakeServer(("127.0.0.1", int(sys.argv[1]))).serve_forever()
