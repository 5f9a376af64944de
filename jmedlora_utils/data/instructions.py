"""Instruction records from one's own articles: a language model behind an OpenAI-compatible endpoint writes them, as in the paper.

Every answer is kept on disk as it came, so that a killed run goes on and nothing is asked twice.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from jmedlora_utils.core import locks
from jmedlora_utils.core.errors import JmedloraError
from jmedlora_utils.core.notebook import progress
from jmedlora_utils.core.records import read_json, sha256_text, write_text
from jmedlora_utils.core.settings import Checked
from jmedlora_utils.data.articles import Article, split_text
from jmedlora_utils.data.curation import Row
from jmedlora_utils.data.pairs import parse_pairs

if TYPE_CHECKING:
    import openai

GIVE_UP_AFTER = 5
"""Texts that may fail before any was answered."""

PROMPTS = {
    "ja": """\
以下の文章の内容にもとづいて、質問とその回答の組を{n}個作成してください。

- 1組を1行に、"instruction"(質問)と "output"(回答)をキーとする JSON オブジェクトとして書いてください。
- 値の中で改行しないでください。
- 文章を読んでいない人にも意味が通じる質問にしてください。
- 回答は文章に書かれている内容だけにもとづいてください。
- JSON オブジェクト以外は何も書かないでください。

### Input:
{text}
""",
    "en": """\
Write {n} pairs of a question and its answer from the text below.

- One pair a line, each a JSON object with the keys "instruction" (the question) and "output" (the answer).
- No line breaks inside a value.
- A question must make sense to somebody who has not read the text.
- An answer rests on nothing but the text.
- Write nothing besides the JSON objects.

### Input:
{text}
""",
}
WORDINGS = {
    "ja": "- どの事実についても、言い方の異なる質問を{w}個ずつ作り、回答はすべて同じ短い語句にしてください。\n",
    "en": "- Ask for each fact in {w} differently worded questions, all with the same short answer.\n",
}
"""The further rule where each fact is asked in several wordings, as a quiz needs them."""

Count = Annotated[int, Field(gt=0)]


class GenerationSettings(Checked, hide_input_in_errors=True):
    """How records are generated."""

    generator: str  #: Name of the model as the endpoint lists it
    endpoint: str = "http://localhost:8000/v1"  #: Address of the OpenAI-compatible endpoint, with `/v1`; it holds no credentials
    allow_remote: bool = False  #: Whether the articles may leave this machine; without it only a loopback address is accepted
    api_key_variable: str = ""  #: Name of the environment variable that holds the API key; empty for servers that need none
    language: Literal["ja", "en"] = "ja"  #: Language of the prompt, one of `PROMPTS`
    pairs_per_article: Count = 15  #: Pairs asked for per text
    wordings: Count = 1  #: Wordings asked for of each fact; with several, answers are to be short
    max_text_chars: Count = 6000  #: Longest text sent at once, in characters; longer articles are sent in parts, cut at paragraphs
    max_tokens: Count = 4096  #: Longest answer, in tokens
    temperature: Annotated[float, Field(ge=0)] = 0.0  #: Sampling temperature; 0 is greedy
    seed: int = 1  #: Seed passed to the endpoint
    concurrency: Count = 4  #: Requests under way at once
    #: Further tries after a refused connection, a timeout, 408, 409, 429 or 5xx, with growing pauses
    max_retries: Annotated[int, Field(ge=0)] = 5
    timeout_seconds: Annotated[float, Field(gt=0)] = 600.0  #: Longest wait for one answer
    allow_failed: bool = False  #: Whether to go on without the texts that the endpoint failed on

    @field_validator("generator")
    @classmethod
    def _is_named(cls, generator: str) -> str:
        if not generator.strip():
            raise ValueError(
                "it is empty; give the name of the model as the endpoint lists it. The paper's records are not public, "
                "so records come from your own articles: book/own_articles.md shows how"
            )
        return generator

    @field_validator("endpoint")
    @classmethod
    def _holds_no_credentials(cls, endpoint: str) -> str:
        if set("@?#") & set(endpoint):
            raise ValueError(
                "it may hold credentials (a user, a password or a query), and it would be written into records; "
                "give the bare address, put the key into an environment variable and name that in api_key_variable"
            )
        return endpoint


@dataclass(frozen=True)
class Text:
    """What one request sends: an article, or a part of a long one."""

    article: str
    part: int
    text: str


@dataclass(frozen=True)
class Reply:
    """One answer as read from the kept response."""

    content: str  #: What the model wrote, unaltered
    finish: str  #: Why it stopped; `length` where `max_tokens` cut it
    prompt_tokens: int | None  #: As reported by the endpoint, None where it reports none
    answer_tokens: int | None  #: Likewise


@dataclass
class Generated:
    """What `generate` returns."""

    records: list[Row] = field(default_factory=list)  #: Instruction records, in the order of the articles
    rejects: list[Row] = field(default_factory=list)  #: Pieces of answers that are no pair: `article`, `part`, `reason`, `raw`
    failed: list[Row] = field(default_factory=list)  #: Texts without an answer: `article`, `part`, `reason`
    #: Texts, requests, answers kept from earlier runs, pairs, rejects, answers cut by `max_tokens`, and the tokens of all answers where the
    #: endpoint reports them
    counts: Counter[str] = field(default_factory=Counter)


def build_prompt(text: str, language: str, pairs_per_article: int, wordings: int = 1) -> str:
    """The prompt for one text."""
    rules, heading, rest = PROMPTS[language].partition("\n### Input:")
    further = WORDINGS[language].format(w=wordings) if wordings > 1 else ""
    return rules.format(n=pairs_per_article) + further + heading + rest.format(text=text)


def generate(articles: Sequence[Article], settings: GenerationSettings, cache_dir: Path) -> Generated:
    """Asks the endpoint for pairs from every article, and reads them.

    Answers lie in `cache_dir`, one file each, named by the SHA-256 of the request (model, prompt, sampling): what lies
    there is not asked again. The files hold the prompts, so only their owner may read them.
    """
    client = open_client(settings)
    texts = [t for article in articles for t in _texts(article, settings.max_text_chars)]
    generated = Generated()
    # Two seeds have the same texts and ask for them once: the second waits for the first.
    with locks.alone(cache_dir.with_name(f".{cache_dir.name}.lock"), "the kept answers", wait=True):
        replies = _kept(texts, settings, cache_dir)
        missing = [t for t in texts if t not in replies]
        generated.counts.update({"texts": len(texts), "answers kept from earlier runs": len(replies), "requests": len(missing)})
        if missing:
            _greet(client, settings)
            for text, answer in progress(_ask_all(client, missing, settings, cache_dir), "Asking the model", total=len(missing)):
                if isinstance(answer, Reply):
                    replies[text] = answer
                else:
                    generated.failed.append({"article": text.article, "part": text.part, "reason": answer})
    if generated.failed and not settings.allow_failed:
        first = generated.failed[0]
        raise JmedloraError(
            f"{len(generated.failed)} of {len(texts)} texts have no answer, the first is article {first['article']!r} "
            f"({first['reason']}); run again to ask only for these, lower max_text_chars or concurrency, or set allow_failed"
        )
    for text in texts:
        if text in replies:
            _read(text, replies[text], generated)
    return generated


def open_client(settings: GenerationSettings) -> openai.OpenAI:
    """A client of the endpoint, whose address has been checked before anything is sent.

    Proxies of the environment and redirects are ignored for a local endpoint: both could carry a text away.
    """
    import openai

    key = "none"
    if settings.api_key_variable:
        key = os.environ.get(settings.api_key_variable, "")
        if not key:
            raise JmedloraError(f"parameter api_key_variable: the environment variable {settings.api_key_variable} is not set or is empty")
    local = {} if settings.allow_remote else {"trust_env": False}
    client = openai.OpenAI(
        base_url=settings.endpoint,
        api_key=key,
        timeout=settings.timeout_seconds,
        max_retries=settings.max_retries,
        http_client=openai.DefaultHttpxClient(follow_redirects=False, **local),
    )
    host = client.base_url.host
    if client.base_url.scheme not in ("http", "https") or not host:
        raise JmedloraError(f"parameter endpoint: {settings.endpoint!r} is no address; write one such as http://localhost:8000/v1")
    if not settings.allow_remote and not _is_loopback(host):
        raise JmedloraError(
            f"parameter endpoint: {host} is not this machine, and the articles would be sent there; "
            "use a local server, or set allow_remote where that is permitted"
        )
    return client


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _texts(article: Article, limit: int) -> list[Text]:
    whole = f"{article.title}\n\n{article.text}" if article.title.strip() else article.text
    return [Text(article.id, i, part) for i, part in enumerate(split_text(whole, limit), start=1)]


def _request(text: Text, settings: GenerationSettings) -> Row:
    """The request whose SHA-256 names the kept answer."""
    prompt = build_prompt(text.text, settings.language, settings.pairs_per_article, settings.wordings)
    return {
        "model": settings.generator,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": settings.temperature,
        "max_tokens": settings.max_tokens,
        "seed": settings.seed,
    }


def _cache_path(text: Text, settings: GenerationSettings, cache_dir: Path) -> Path:
    key = {"article": text.article, "part": text.part, "request": _request(text, settings)}
    return cache_dir / f"{sha256_text(json.dumps(key, ensure_ascii=False, sort_keys=True))}.json"


def _kept(texts: Iterable[Text], settings: GenerationSettings, cache_dir: Path) -> dict[Text, Reply]:
    """Answers that lie in the cache."""
    replies = {}
    for text in texts:
        path = _cache_path(text, settings, cache_dir)
        if path.is_file():
            try:
                replies[text] = _read_body(read_json(path)["body"])
            except (KeyError, TypeError, JmedloraError) as error:
                raise JmedloraError(f"{path}: not a kept answer ({error}); delete the file and run again") from error
    return replies


def _read_body(body: str) -> Reply:
    """Reads the body of a chat completion."""
    try:
        raw = json.loads(body)
        choice = raw["choices"][0]
        content = choice["message"].get("content") or ""
        usage = raw.get("usage") or {}
        reply = Reply(content, str(choice.get("finish_reason")), usage.get("prompt_tokens"), usage.get("completion_tokens"))
    except (json.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise JmedloraError(f"not a chat completion: {body[:200]!r}") from error
    if not isinstance(content, str):
        raise JmedloraError(f"not a chat completion with text: {body[:200]!r}")
    return reply


def _greet(client: openai.OpenAI, settings: GenerationSettings) -> None:
    """Asks for the list of models, so that a server that is not there is known at once and before any text is sent."""
    import openai

    try:
        client.with_options(max_retries=0, timeout=min(10.0, settings.timeout_seconds)).models.list()
    except openai.APITimeoutError:
        pass  # a server busy with a long answer may not list its models in time
    except (openai.APIConnectionError, openai.AuthenticationError, openai.PermissionDeniedError) as error:
        raise _fatal(client, settings, error) from error
    except openai.APIError:
        pass  # not every server lists its models


def _fatal(client: openai.OpenAI, settings: GenerationSettings, error: openai.APIError) -> JmedloraError:
    """The error for a problem that every further request would meet."""
    import openai

    where = f"parameter endpoint: {settings.endpoint}"
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        fix = "put the key into an environment variable and name it in api_key_variable"
        return JmedloraError(f"{where} asks for an API key or refuses the one given ({error.status_code}); {fix}")
    if isinstance(error, openai.NotFoundError):
        try:
            offered = ", ".join(model.id for model in client.with_options(max_retries=0).models.list())
        except openai.APIError:
            offered = ""
        fix = f"it offers: {offered}" if offered else "check the name, and that the address ends in /v1"
        return JmedloraError(f"parameter generator: {settings.endpoint} knows no model {settings.generator!r} (404); {fix}")
    if isinstance(error, openai.APIStatusError):
        return JmedloraError(f"{where} answers with status {error.status_code}; check the address")
    fix = "start the server or correct the address; what was answered is kept"
    return JmedloraError(f"{where} cannot be reached ({error.__cause__ or error}); {fix}")


def _ask_all(
    client: openai.OpenAI, texts: Sequence[Text], settings: GenerationSettings, cache_dir: Path
) -> Iterator[tuple[Text, Reply | str]]:
    """Yields each text with its answer, or with the reason why there is none, as they arrive."""
    waiting, running = deque(texts), dict[Future[Reply | str], Text]()
    answered = failed = 0
    with ThreadPoolExecutor(settings.concurrency) as pool:
        while waiting or running:
            while waiting and len(running) < settings.concurrency:
                text = waiting.popleft()
                running[pool.submit(_ask, client, text, settings, cache_dir)] = text
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                text, answer = running.pop(future), future.result()
                answered += isinstance(answer, Reply)
                failed += not isinstance(answer, Reply)
                if failed >= GIVE_UP_AFTER and not answered:
                    raise JmedloraError(f"parameter endpoint: {settings.endpoint} failed on the first {failed} texts ({answer})")
                yield text, answer


def _ask(client: openai.OpenAI, text: Text, settings: GenerationSettings, cache_dir: Path) -> Reply | str:
    """One answer, kept on disk before it is returned; or the reason why this text has none."""
    import openai

    request = _request(text, settings)
    try:
        body = client.chat.completions.with_raw_response.create(**request).text
        reply = _read_body(body)
    except openai.APITimeoutError:
        return f"no answer within {settings.timeout_seconds:g} s"
    except openai.APIStatusError as error:
        if error.status_code < 400 or error.status_code in (401, 403, 404):
            raise _fatal(client, settings, error) from error
        said = error.response.text.replace(client.api_key, "***") if settings.api_key_variable else error.response.text
        return f"status {error.status_code}: {said[:200]}"
    except openai.APIConnectionError as error:
        raise _fatal(client, settings, error) from error
    except JmedloraError as error:
        raise JmedloraError(f"parameter endpoint: {settings.endpoint} sent {error}; does the address end in /v1?") from error
    kept = {"article": text.article, "part": text.part, "endpoint": settings.endpoint, "request": request, "body": body}
    write_text(_cache_path(text, settings, cache_dir), json.dumps(kept, ensure_ascii=False) + "\n", mode=0o600)
    return reply


def _read(text: Text, reply: Reply, generated: Generated) -> None:
    """Adds the pairs and the rejects of one answer."""
    parsed, counts = parse_pairs(reply.content), generated.counts
    for number, pair in enumerate(parsed.pairs, start=1):
        record = {"id": f"{text.article}#{text.part}.{number}", **asdict(pair), "article": text.article, "facts": []}
        generated.records.append(record)
    generated.rejects += [{"article": text.article, "part": text.part, **asdict(reject)} for reject in parsed.rejects]
    counts["pairs"] += len(parsed.pairs)
    counts["rejects"] += len(parsed.rejects)
    counts["answers cut by max_tokens"] += reply.finish == "length"
    counts["answers without token counts"] += reply.prompt_tokens is None or reply.answer_tokens is None
    counts["prompt tokens"] += reply.prompt_tokens or 0
    counts["answer tokens"] += reply.answer_tokens or 0
