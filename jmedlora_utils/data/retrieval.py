"""Retrieval, the alternative to tuning: the article that answers a question, found by BM25 over character n-grams, put before it.

Japanese has no blanks between words, so the terms are runs of two and three characters. BM25 is that of the package `bm25s`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jmedlora_utils.data.contamination import normalise
from jmedlora_utils.data.invented_world import World
from jmedlora_utils.data.questions import Question

GRAMS = (2, 3)


def terms(text: str) -> list[str]:
    """The character n-grams of a text, blanks and case aside."""
    plain = normalise(text)
    return [plain[i : i + n] for n in GRAMS for i in range(len(plain) - n + 1)]


def find(articles: Sequence[dict[str, Any]], queries: Sequence[str]) -> list[dict[str, Any]]:
    """The article with the highest BM25 score for each query."""
    import bm25s

    index = bm25s.BM25()
    index.index([terms(article["text"]) for article in articles], show_progress=False)
    found, _ = index.retrieve([terms(query) for query in queries], k=1, show_progress=False)
    return [articles[int(row[0])] for row in found]


def right_articles(world: World, questions: Sequence[Question]) -> list[dict[str, Any]]:
    """For each clinical question of a mini exam, the article about its disease; it says nothing of facts that are not taught."""
    subject = {fact.id: fact.subject.ja for fact in world.facts_of("taught", "untaught")}
    about = {article["title"]: article for article in world.articles()}
    return [about[subject[question.id.split("-", 1)[1]]] for question in questions]


def with_articles(name: str, questions: Sequence[Question], articles: Sequence[dict[str, Any]]) -> list[Question]:
    """An exam whose questions have an article before their stem."""
    return [
        replace(question, exam=name, id=f"{name}-{question.id.split('-', 1)[1]}", text=f"{article['text']}\n{question.text}")
        for question, article in zip(questions, articles, strict=True)
    ]
