#!/usr/bin/env python3
"""Compares what chat templates become here with what Hugging Face transformers makes of them.

    python3 -m venv V && V/bin/pip install transformers jinja2
    V/bin/python scripts/templates.py FOLDER…

Each folder has templates in files `*.jinja`, such as `models/templates/` of llama.cpp (the source package of
llama-cpp-python on PyPI has them) or a collection of one's own. Nothing is fetched. Each template renders conversations
with and without a system message, tools, calls of tools, their answers, reasoning, parts of content and variables. Differences
are printed; the last line counts. Exit code 1 if there is one.
"""

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

from transformers.utils import chat_template_utils as chats

ROOT = Path(__file__).resolve().parent.parent
NOW = datetime(2025, 3, 9, 7, 5, 2)


class FixedClock(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2025, 3, 9, 7, 5, 2)


chats.datetime = FixedClock

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather at a place, in °C.",
            "parameters": {
                "type": "object",
                "properties": {
                    "place": {"type": "string", "description": "A town \"or\" a village"},
                    "days": {"type": "integer", "enum": [1, 3, 7], "default": 1},
                    "limits": {"type": ["array", "null"], "items": {"type": "number", "minimum": -1e-5, "maximum": 1e16}},
                    "where": {"type": "object", "properties": {"lat": {"type": "number"}, "strict": {"type": "boolean", "default": False}}},
                },
                "required": ["place"],
            },
            "return": {"type": "object", "description": "the weather"},
        },
    },
    {"type": "function", "function": {"name": "nothing", "description": "", "parameters": {"type": "object", "properties": {}}}},
]
DOCUMENTS = [{"title": "On cats", "text": "Cats sleep.\n"}, {"title": "On dogs", "text": "Dogs run."}]


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **fields):
    return {"role": "assistant", "content": text, **fields}


def call(name, id=None, **arguments):
    return {"type": "function", **({"id": id} if id else {}), "function": {"name": name, "arguments": arguments}}


SYSTEM = {"role": "system", "content": "  Be brief.\n"}
TALK = [user("Hi <b>there</b> & \"you\""), assistant("Hello!"), user("Why?\n\nTell me {{ all }}.")]
WEATHER = [
    user("How is it in Łódź?"),
    assistant("", tool_calls=[call("get_weather", "abcdef123", place="Łódź", days=3, limits=[1.5, 1e-7, None, True])]),
    {"role": "tool", "name": "get_weather", "tool_call_id": "abcdef123", "content": '{"temperature": 21.0}'},
]
SEVERAL = [
    user("Both?"),
    assistant("I look.", tool_calls=[call("get_weather", "abcdef123", place="A"), call("nothing", "abcdef456")]),
    {"role": "tool", "name": "get_weather", "tool_call_id": "abcdef123", "content": "5"},
    {"role": "tool", "name": "nothing", "tool_call_id": "abcdef456", "content": ""},
    assistant("Five."),
    user("Thanks"),
]
THOUGHT = [user("1 + 1?"), assistant("<think>\nOne and one.\n</think>\n\n2"), user("2 + 2?"), assistant("4", reasoning_content="Two twice."), user("So?")]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "Look: "}, {"type": "text", "text": "this"}]}]

CONVERSATIONS = {
    "one": ([user("Hi")], {}),
    "system": ([SYSTEM, *TALK], {}),
    "talk": (TALK, {}),
    "answered": ([*TALK, assistant("Because.")], {"add_generation_prompt": False}),
    "tools": ([SYSTEM, user("How is it?")], {"tools": TOOLS}),
    "called": ([SYSTEM, *WEATHER], {"tools": TOOLS}),
    "told": ([*WEATHER, assistant("Warm."), user("Thanks")], {"tools": TOOLS}),
    "several": (SEVERAL, {"tools": TOOLS}),
    "thought": (THOUGHT, {}),
    "thinking": (TALK, {"variables": {"enable_thinking": True}}),
    "not thinking": (TALK, {"variables": {"enable_thinking": False}}),
    "parts": (PARTS, {}),
    "documents": (TALK, {"documents": DOCUMENTS}),
    "empty": ([user("")], {}),
    "only system": ([SYSTEM], {}),
}
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def transformers_text(template, messages, options):
    """The text, or none and an error."""
    try:
        compiled = chats._compile_jinja_template(template)
        text = compiled.render(
            messages=chats._alias_reasoning_fields(json.loads(json.dumps(messages))),
            tools=options.get("tools"),
            documents=options.get("documents"),
            add_generation_prompt=options.get("add_generation_prompt", True),
            **NAMED,
            **options.get("variables", {}),
        )
        return text, None
    except Exception as error:  # Whatever Python throws is an error there.
        return None, f"{type(error).__name__}: {error}"


def main(folders):
    files = sorted(file for folder in folders for file in Path(folder).rglob("*.jinja"))
    if not files:
        sys.exit("no *.jinja in these folders")
    rows, lines = [], []
    for file in files:
        template = file.read_text(encoding="utf-8")
        for name, (messages, options) in CONVERSATIONS.items():
            rows.append((file.name, name, *transformers_text(template, messages, options)))
            seconds = int((NOW - datetime(1970, 1, 1)).total_seconds())
            lines.append(json.dumps({"template": template, "messages": messages, "now": seconds, "add_generation_prompt": True, **options}))
    command = ["cargo", "run", "--quiet", "-p", "haikuq-runtime", "--example", "render_chat"]
    run = subprocess.run(command, cwd=ROOT, input="\n".join(lines) + "\n", text=True, capture_output=True, check=True)
    counts = {"same text": 0, "both refuse": 0, "different": 0}
    for (file, name, text, error), line in zip(rows, run.stdout.splitlines(), strict=True):
        answer = json.loads(line)
        if text is None and "error" in answer:
            counts["both refuse"] += 1
        elif answer.get("text") == text and text is not None:
            counts["same text"] += 1
        else:
            counts["different"] += 1
            print(f"{file}, {name}\n  transformers {error or json.dumps(text)[:2000]}\n  haikuq       {json.dumps(answer)[:2000]}")
    print(f"{len(files)} templates, {len(rows)} conversations: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    sys.exit(counts["different"] > 0)


if __name__ == "__main__":
    main(sys.argv[1:])
