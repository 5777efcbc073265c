#!/usr/bin/env python3
"""Asks `haikuq serve --api` with OpenAI's own client for Python.

    python3 -m venv venv && venv/bin/pip install openai
    venv/bin/python scripts/check_api.py HAIKUQ PACKAGE

HAIKUQ is the program, and PACKAGE one that it converted, with a chat template. The client checks the shape of every answer. Whole and
streamed answers must be equal, and those of eight requests at once must be those of one after the other.
"""
import asyncio
import json
import subprocess
import sys

import openai


def main():
    haikuq, package = sys.argv[1:]
    command = [haikuq, "serve", package, "--api", "--port", "0", "--json", "--numerics", "exact"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        said = json.loads(server.stdout.readline())
        check(said["api"], said["packages"][0]["name"])
    finally:
        server.kill()


def check(url, model):
    client = openai.OpenAI(base_url=url, api_key="none")
    assert [m.id for m in client.models.list()] == [model] and client.models.retrieve(model).id == model
    chat = dict(model=model, messages=[{"role": "user", "content": "Tell me a story."}], max_completion_tokens=24, temperature=0)
    whole = client.chat.completions.create(**chat)
    text = whole.choices[0].message.content
    chunks = list(client.chat.completions.create(**chat, stream=True, stream_options={"include_usage": True}))
    streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert streamed == text and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 24
    assert len(client.chat.completions.create(**{**chat, "temperature": 1}, n=3, seed=1).choices) == 3

    prompts = ["The old house", "Once upon a time", "A dog", "She said", "The sun", "In the park", "Two friends", "My"]
    one = dict(model=model, max_tokens=24, temperature=0)
    alone = [client.completions.create(prompt=p, **one).choices[0].text for p in prompts]

    async def together():
        several = openai.AsyncOpenAI(base_url=url, api_key="none")
        answers = await asyncio.gather(*(several.completions.create(prompt=p, **one) for p in prompts))
        return [a.choices[0].text for a in answers]

    assert asyncio.run(together()) == alone
    for refused in [dict(logit_bias={"1": 1}), dict(model="gpt-4"), dict(extra_body={"unheard_of": 1})]:
        try:
            client.chat.completions.create(**{**chat, **refused})
            raise AssertionError(f"{refused} was not refused")
        except (openai.BadRequestError, openai.NotFoundError) as error:
            print(f"refused: {error.body['message']}")
    print(f"openai {openai.__version__} for Python: models, chats and texts, whole and streamed, {len(prompts)} at once: all as they should be")


main()
