#!/usr/bin/env python3
"""Finds sentences that a reader has to read twice, in documentation, comments, help texts and messages.

    python3 scripts/prose.py                 # every path in CHECKED; fails if anything is found
    python3 scripts/prose.py --count PATH…   # findings by file, of these paths (or of LATER), without failing
    python3 scripts/prose.py PATH…           # findings of these paths

Rules: no clause with "what" or "who" as the subject of a sentence ("What is not read is refused"), none of PHRASES, and in
Markdown no sentence of more than MOST_WORDS words (in tables, where cells are lists, no part between semicolons). Code, addresses, headings and questions do not count. A line that quotes a
bad sentence on purpose carries `prose: allow` in a comment.
"""

import fnmatch
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# What must be clean, as git's path patterns. Widen it by moving lines up from LATER.
CHECKED = ["*.md", "web/*.ts", "web/*.tsx", "web/*.mjs", "scripts/*", ".github/*.yml", "Makefile", ".ci/*", "*.toml"]
CHECKED += ["*.rs", "*.wgsl", "*.py"]
# Not clean yet: `--count` without a path says how much is left.
LATER: list[str] = []
# Texts that are data.
NEVER = ["golden/", "tests/fixtures/", "tests/hostile/", "LICENSE", "package-lock.json", "Cargo.lock", ".snap"]
# Folders that building makes.
MADE = {".git", ".tools", "target", "node_modules", "dist", "site", "generated", ".cache", "corpus", "findings"}

MOST_WORDS = 40
PHRASES = {
    r"\b(?:make|makes|made|making) good\b": '"made good": say what happens',  # prose: allow
    r"\bto be had\b": '"to be had": say who has it, or that it exists',  # prose: allow
    r"\b(?:is|are|was|were|be|been) said\b": '"is said": say who or what says it',  # prose: allow
}
SUBJECT = re.compile(r"(?:^|[;:,] )(?:and |but |so )?(?:what|who|whoever|whatever|whom)\b(?! else\b|-)", re.IGNORECASE)
# "Whatever the file, a checkpoint looks like …" is no subject.
NO_SUBJECT = re.compile(r"^(?:and |but |so )?(?:whatever|whoever)\b[^,.;]*,", re.IGNORECASE)
# A clause is a subject if a second verb follows: "what is kept stays", but not the label "What is kept, and where it lies".
# Subordinate clauses are looked at one by one.
PARTS = re.compile(
    r"\b(?:that|which|who|whom|whose|what|where|when|while|if|whether|how|why|because|since|as|until|before|after|once|lest|than|"
    r"unless)\b",
    re.IGNORECASE,
)
# "can be", "did not know" are one verb; "to know" and "and belongs" are no verb of the sentence.
AUXILIARY = re.compile(r"\b(?:can|cannot|could|may|might|must|shall|should|will|would|do|does|did)\b(?: not)?(?: [a-z]+)?", re.IGNORECASE)
NO_VERB = re.compile(r"\b(?:to|and|or) [a-z]+", re.IGNORECASE)
VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|had|verb|came|became|become|come|gave|got|knew|lay|ran|said|saw|stood|took|went|"
    r"make|take|stay|lie|"
    r"(?:add|arrive|begin|belong|break|bring|come|become|cost|count|decide|depend|differ|estimate|fail|fall|find|follow|get|give|"
    r"happen|help|hold|keep|know|land|leave|lie|look|lose|make|matter|mean|need|remain|say|see|show|stand|stay|take|tell|wait|"
    r"want)s|goes|passes|ends up)\b",
    re.IGNORECASE,
)


def is_subject(clause):
    """Whether the clause with which this text begins is the subject of a verb."""
    clause = re.split(r"[;:]", clause)[0]
    if NO_SUBJECT.search(clause):
        return False
    # A verb follows "who" at once, whichever it is.
    clause = re.sub(r"^((?:and |but |so )?who(?:ever)?) [a-z]+", r"\1 verb", clause, flags=re.IGNORECASE)
    parts = PARTS.split(AUXILIARY.sub("verb", re.sub(r"\([^()]*\)", " ", clause)))
    return any(len(VERB.findall(NO_VERB.sub(" ", part))) >= 2 for part in parts)



@dataclass
class Block:
    """A run of text that is one paragraph: its characters, and the line on which each stands."""

    text: str
    lines: list[int]
    cell: bool = False


def block(pieces, cell=False):
    """A block of (line number, text) pairs, joined by spaces."""
    text, lines = "", []
    for number, piece in pieces:
        piece = piece.strip() + " "
        text += piece
        lines += [number] * len(piece)
    return Block(text, lines, cell)


def markdown_blocks(source):
    """Paragraphs, list items and cells of tables; not code, headings and HTML comments."""
    pieces, fenced, comment = [], None, False

    def flush():
        nonlocal pieces
        if pieces:
            yield block(pieces)
        pieces = []

    for number, line in enumerate(source.splitlines(), 1):
        stripped = line.strip()
        fence = re.match(r"(```+|~~~+)", stripped)
        if fence and (fenced is None or stripped.startswith(fenced)):
            yield from flush()
            fenced = fence[1] if fenced is None else None
        elif fenced is not None:
            continue
        elif comment or stripped.startswith("<!--"):
            yield from flush()
            comment = "-->" not in stripped
        elif not stripped or stripped.startswith("#") or (line.startswith("    ") and not pieces):
            yield from flush()
        elif stripped.startswith("|"):
            yield from flush()
            for cell in re.split(r"(?<!\\)\|", stripped):
                if re.search(r"\w", cell):
                    yield block([(number, cell)], cell=True)
        elif re.match(r"(?:[-*+>]|\d+\.)\s", stripped):
            yield from flush()
            pieces.append((number, re.sub(r"^(?:[-*+>]|\d+\.)\s+", "", stripped)))
        else:
            pieces.append((number, stripped))
    yield from flush()


LANGUAGES = {
    # Line comments, block comments and strings of a language; neighbouring line comments are one block.
    ".ts": (r"//[/!]?(?P<line>[^\n]*)", r"/\*\*?(?P<block>.*?)\*/", r"'(?P<s1>(?:\\.|[^'\\\n])*)'|`(?P<s2>(?:\\.|[^`\\])*)`|\"(?P<s3>(?:\\.|[^\"\\\n])*)\""),
    ".rs": (r"//[/!]?(?P<line>[^\n]*)", r"/\*\*?(?P<block>.*?)\*/", r"(?<!')\"(?P<s1>(?:\\.|[^\"\\])*)\"(?!')|r#\"(?P<s2>.*?)\"#"),
    ".sh": (r"(?:^|(?<=\s))#(?P<line>[^\n]*)", r"(?P<block>(?!))", r"\"(?P<s1>(?:\\.|[^\"\\])*)\"|'(?P<s2>[^'\n]*)'"),
    ".py": (r"(?:^|(?<=\s))#(?P<line>[^\n]*)", r"\"\"\"(?P<block>.*?)\"\"\"", r"\"(?P<s1>(?:\\.|[^\"\\\n])*)\"|'(?P<s2>(?:\\.|[^'\\\n])*)'"),
}
for name, like in {".tsx": ".ts", ".mjs": ".ts", ".js": ".ts", ".wgsl": ".ts", ".toml": ".sh", ".yml": ".sh", "": ".sh"}.items():
    LANGUAGES[name] = LANGUAGES[like]


def code_blocks(source, suffix):
    """Comments, and strings that look like sentences."""
    pattern = re.compile("|".join(LANGUAGES[suffix]), re.DOTALL)
    pieces = []
    for found in pattern.finditer(source):
        number = source.count("\n", 0, found.start()) + 1
        groups = found.groupdict()
        if groups["line"] is not None:
            beside = source[source.rfind("\n", 0, found.start()) + 1 : found.start()].strip()
            if pieces and (pieces[-1][0] != number - 1 or beside):
                yield block(pieces)
                pieces = []
            pieces.append((number, groups["line"]))
            if not groups["line"].strip():
                yield block(pieces)
                pieces = []
            continue
        if pieces:
            yield block(pieces)
            pieces = []
        if groups["block"] is not None:
            text = [(number + i, re.sub(r"^\s*\*\s?", "", line)) for i, line in enumerate(groups["block"].split("\n"))]
            part = []
            for line in [*text, (0, "")]:
                if line[1].strip() and not line[1].strip().startswith("@"):
                    part.append(line)
                elif part:
                    yield block(part)
                    part = []
        else:
            text = next(value for key, value in groups.items() if key.startswith("s") and value is not None)
            if " " in text:
                yield block([(number + i, re.sub(r"\\\n?|\$?\{[^{}]*\}", "x ", line)) for i, line in enumerate(text.split("\n"))])
    if pieces:
        yield block(pieces)


def plain(text):
    """Text without markup, of the same length: code and addresses become one word."""

    def word(found):
        return "x" * len(found[0])

    text = re.sub(r"``.+?``|`[^`]*`", word, text)
    text = re.sub(r"(?<=\])\([^()\s]*(?:\([^()]*\)[^()\s]*)?\)", lambda found: " " * len(found[0]), text)
    text = re.sub(r"https?://\S*[\w/]", word, text)
    return re.sub(r"[*\[\]!]", " ", text)


def sentences(part):
    """(line, sentence) for each sentence of a block."""
    text = plain(part.text)
    begin = 0
    for found in re.finditer(r"[.?!][)\"”’*_]*\s+(?=[\"“‘(*_`\[]*[A-Z0-9`x])|$", text):
        end = found.end()
        said = text[begin:end]
        if said.strip():
            first = begin + len(said) - len(said.lstrip())
            yield part.lines[min(first, len(part.lines) - 1)], said.strip(), part.text[begin:end].strip()
        begin = end


def faults(said, markdown, cell=False):
    """What is wrong with a sentence."""
    for pattern, why in PHRASES.items():
        if re.search(pattern, said, re.IGNORECASE):
            yield why
    if not said.rstrip("*_)\"”’ ").endswith("?"):
        if any(is_subject(said[found.start() :].lstrip(";:, ")) for found in SUBJECT.finditer(said)):
            yield "a clause with what or who as its subject: name the thing or the person"
    parts = said.split(";") if cell else [said]
    count = max(len(re.findall(r"[^\W_][\w'’.,:/%–-]*", part)) for part in parts)
    if markdown and count > MOST_WORDS:
        yield f"{count} words: make two sentences"


def findings(path):
    markdown = path.suffix == ".md"
    if not markdown and path.suffix not in LANGUAGES:
        return
    source = path.read_text(encoding="utf-8")
    allowed = {number for number, line in enumerate(source.splitlines(), 1) if "prose: allow" in line}
    for part in markdown_blocks(source) if markdown else code_blocks(source, path.suffix):
        for line, said, shown in sentences(part):
            if line not in allowed:
                for why in faults(said, markdown, part.cell):
                    yield line, why, shown


def tracked(patterns):
    """Names of files of these patterns that git has or would have; of those that lie here, if git does not answer."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    try:
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        # An archive of the sources has no repository.
        names = []
        for folder, folders, files in os.walk(ROOT):
            folders[:] = [name for name in folders if name not in MADE]
            names += [(Path(folder) / name).relative_to(ROOT).as_posix() for name in files]
        return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def listed(patterns):
    """Files of these patterns, in order."""
    if not patterns:
        return []
    found = sorted({name for name in tracked(patterns) if not any(never in name for never in NEVER)})
    return [ROOT / name for name in found if (ROOT / name).is_file()]


def main(arguments):
    count = "--count" in arguments
    paths = [argument for argument in arguments if argument != "--count"]
    if paths:
        chosen = listed(paths)
    else:
        later = set(listed(LATER))
        chosen = sorted(later) if count else [path for path in listed(CHECKED) if path not in later]
    total = 0
    for path in chosen:
        found = list(findings(path))
        total += len(found)
        name = path.relative_to(ROOT)
        if count and found:
            print(f"{len(found):5} {name}")
        elif not count:
            for line, why, said in found:
                print(f"{name}:{line}: {why}\n    {said}")
    print(f"prose: {total} findings in {len(chosen)} files", file=sys.stderr)
    return 1 if total and not count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
