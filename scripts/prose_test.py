#!/usr/bin/env python3
"""Tests of scripts/prose.py: `python3 scripts/prose_test.py`."""

import unittest

import prose


def found(text, suffix=".md"):
    """What the rules say about each sentence of a text."""
    parts = prose.markdown_blocks(text) if suffix == ".md" else prose.code_blocks(text, suffix)
    return [(line, why) for part in parts for line, said, _ in prose.sentences(part) for why in prose.faults(said, suffix == ".md", part.cell)]


class Clauses(unittest.TestCase):
    def test_a_clause_is_no_subject(self):
        for bad in (
            "What is not read is refused.",  # prose: allow
            "It goes on; what is finished stays.",  # prose: allow
            "Who asks for both gets neither.",  # prose: allow
            "Whoever waits for a file sees the error.",  # prose: allow
            "The price is found, and what is left of it goes to the best.",  # prose: allow
        ):
            self.assertEqual(len(found(bad)), 1, bad)

    def test_labels_questions_and_objects_are(self):
        for good in (
            "What is read, and where it lies.",
            "What is it that a reader knows?",
            "The page says what is refused and why.",
            "Whatever the file, a checkpoint looks the same.",
            "## What is measured is this",
            "```\nWhat is kept is kept\n```",
        ):
            self.assertEqual(found(good), [], good)


class Phrases(unittest.TestCase):
    def test_each_is_found_in_comments_and_strings(self):
        self.assertEqual(len(found("// Later layers make good what was lost.\nlet x = 1;", ".rs")), 1)  # prose: allow
        self.assertEqual(len(found('let x = "no GPU is to be had";', ".rs")), 1)  # prose: allow
        self.assertEqual(found("let is_said = 1;", ".rs"), [])


class Length(unittest.TestCase):
    def test_forty_words_are_enough(self):
        self.assertEqual(found("Word " * 39 + "end."), [])
        self.assertEqual(len(found("Word " * 40 + "end.")), 1)

    def test_code_counts_as_a_word_and_addresses_as_none(self):
        self.assertEqual(found("Word " * 38 + "[end](https://example.org/a/b/c) `a b c d e f`."), [])

    def test_cells_are_lists(self):
        self.assertEqual(found("| " + "word " * 30 + "; " + "word " * 30 + " |"), [])

    def test_a_sentence_is_reported_at_its_line(self):
        self.assertEqual(found("One.\nTwo.\nWhat is kept is kept.\n")[0][0], 3)


class Files(unittest.TestCase):
    def test_no_pattern_is_no_file_and_code_is_checked(self):
        self.assertEqual(prose.listed([]), [])
        self.assertEqual({path.suffix for path in prose.listed(prose.CHECKED)} & {".md", ".rs", ".wgsl"}, {".md", ".rs", ".wgsl"})


if __name__ == "__main__":
    unittest.main()
