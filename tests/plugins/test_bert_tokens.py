"""What a BERT encoder makes of a text before the graph: spans, pairs, prompts, limits, and what it refuses."""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_berts
from batch_preprocessing import check_batch
from tiny_berts import POSITIONS, Prepared, prepare
from tokenizers import Encoding, Tokenizer
from topwork_plugins.bert.plugin import BertOptions
from topwork_plugins.bert.text_prefix import MOST_CHARACTERS
from topwork_plugins.bert.tokens import Tokenization
from topwork_server import ImageItem, InvalidInput, Item, Role, Sample, TextItem
from topwork_server.blocking_calls import working_for
from topwork_server.errors import DeadlineExceeded

TEXT = "Naïve café 漢字 😀! A  small bird\n sings."
PROMPTS = {"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": "passage"}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("bert")
    return prepare(tiny_berts.write(folder / "model"), folder / "out")


FRAMED = ("bert", "mpnet", "roberta", "albert", "xlm-roberta")


@pytest.fixture(scope="module")
def prepared_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Prepared]:
    @cache
    def made(model_type: str) -> Prepared:
        folder = tmp_path_factory.mktemp(model_type)
        return prepare(tiny_berts.write(folder / "model", model_type), folder / "out")

    return made


@pytest.fixture(params=FRAMED)
def tokenized(request: pytest.FixtureRequest, prepared_once: Callable[[str], Prepared]) -> Prepared:
    """One architecture of each kind of tokenizer with a token before and one after a text."""
    return prepared_once(request.param)


@pytest.fixture(params=[*FRAMED, "gpt2", "llama", "qwen3", "t5", "xlnet"])
def any_tokenized(request: pytest.FixtureRequest, prepared_once: Callable[[str], Prepared]) -> Prepared:
    """And those with none of them, or with one, or with two at the end."""
    return prepared_once(request.param)


def sample(prepared: Prepared, text: str, pair: str | None = None, **options: Any) -> Sample:
    return prepared.samples([TextItem(text, pair)], **options)[0]


def pieces(made: Sample, text: str, part: int = 0) -> list[str]:
    """What the rows of one part say that they cover."""
    assert made.tokens is not None
    return [text[start:end] for (start, end), p in zip(made.tokens.chars, made.tokens.parts, strict=True) if p == part]


def test_spans_cover_the_text_in_order(any_tokenized: Prepared) -> None:
    made = sample(any_tokenized, TEXT)
    assert made.tokens is not None
    chars = made.tokens.chars
    assert (chars[1:, 0] >= chars[:-1, 0]).all()
    covered = {i for start, end in chars for i in range(start, end)}
    assert {i for i, char in enumerate(TEXT) if not char.isspace()} <= covered
    assert not [piece for piece in pieces(made, TEXT) if piece.strip() and piece != piece.lstrip()]
    assert (chars[:, 1] <= len(TEXT)).all()


def test_special_tokens_are_no_rows(tokenized: Prepared) -> None:
    made = sample(tokenized, "A small bird")
    assert made.tokens is not None
    assert np.array_equal(made.tokens.positions, np.arange(1, tokenized.encoder.cost(made) - 1))
    assert made.tokens.positions.dtype == np.int64
    assert made.tokens.chars.dtype == made.tokens.parts.dtype == np.int32


def test_spans_are_words_and_pieces_of_words(bert: Prepared) -> None:
    made = sample(bert, TEXT)
    ids = made.inputs["input_ids"][1:-1]
    tokens = [str(bert.encoder._tokenization._tokenizer.id_to_token(i)) for i in ids]
    plain = str.maketrans("ïé", "ie")
    assert [t.removeprefix("##") for t in tokens if t != "[UNK]"] == [
        piece.lower().translate(plain) for piece, t in zip(pieces(made, TEXT), tokens, strict=True) if t != "[UNK]"
    ]
    assert "😀" in pieces(made, TEXT)  # spans count code points, not UTF-16 units or bytes


def test_a_pair_has_rows_of_both_parts(any_tokenized: Prepared) -> None:
    first, second = "Who sings at night?", "A small bird."
    made = sample(any_tokenized, first, second)
    assert made.tokens is not None
    assert "".join(pieces(made, first, 0)).lower() == first.replace(" ", "").lower()
    assert "".join(pieces(made, second, 1)).lower() == second.replace(" ", "").lower()
    if "token_type_ids" in made.inputs:
        types = made.inputs["token_type_ids"]
        assert np.array_equal(types[made.tokens.positions], made.tokens.parts)


def test_only_architectures_with_token_types_are_fed_them(tokenized: Prepared) -> None:
    made = sample(tokenized, "A small bird", "sings")
    model_type = tokenized.source.parent.name.rstrip("0123456789")
    assert ("token_type_ids" in made.inputs) == (model_type in ("bert", "albert"))


def test_collate_pads_on_the_right_with_the_models_own_padding(tokenized: Prepared) -> None:
    samples = tokenized.samples([TextItem("Bread"), TextItem("A small bird sings.")])
    batch = tokenized.encoder.collate(samples)
    short, long = (tokenized.encoder.cost(s) for s in samples)
    padding = tokenized.encoder._tokenization._tokenizer.token_to_id("<pad>")
    assert {array.shape for array in batch.values()} == {(2, long)}
    assert batch["attention_mask"].sum(1).tolist() == [short, long]
    assert batch["input_ids"][0, short:].tolist() == [0 if padding is None else padding] * (long - short)


def test_a_prompt_takes_part_and_gives_no_rows(any_tokenized: Prepared) -> None:
    plain, prompted = sample(any_tokenized, TEXT), sample(any_tokenized, TEXT, prompt="query: ")
    assert plain.tokens is not None
    assert prompted.tokens is not None
    assert np.array_equal(prompted.inputs["input_ids"], sample(any_tokenized, "query: " + TEXT).inputs["input_ids"])
    assert "".join(pieces(prompted, TEXT)).split() == "".join(pieces(plain, TEXT)).split()
    assert prompted.tokens.chars.min() == 0
    assert prompted.tokens.positions[0] > plain.tokens.positions[0]


def test_a_token_across_the_end_of_the_prompt_is_a_row(any_tokenized: Prepared) -> None:
    """Byte-level and SentencePiece tokens begin with the prompt's last space; the row covers the word alone."""
    assert pieces(sample(any_tokenized, "bird", prompt="A small "), "bird")[0].startswith("b")


def test_a_model_may_name_prompts_and_one_by_default(tmp_path: Path) -> None:
    source = tiny_berts.write(tmp_path / "model")
    (source / "config_sentence_transformers.json").write_text(json.dumps(PROMPTS))
    prepared = prepare(source, tmp_path / "out")

    def ids(text: str, **options: Any) -> list[int]:
        return list(sample(prepared, text, **options).inputs["input_ids"])

    assert ids("bird", prompt_name="query") == ids("query: bird", prompt_name="none")
    assert ids("bird") == ids("passage: bird", prompt_name="none")
    assert ids("bird", prompt="query: ") == ids("bird", prompt_name="query")
    with pytest.raises(InvalidInput, match=r"no prompt named 'title'.*passage, query"):
        ids("bird", prompt_name="title")
    with pytest.raises(InvalidInput, match="both prompt and prompt_name"):
        ids("bird", prompt="a", prompt_name="query")


@pytest.mark.parametrize(
    ("named", "given", "query", "document"),
    [
        (("query", "passage"), {}, "query", "passage"),
        (("search_query", "search_document"), {"truncate": True}, "search_query", "search_document"),
        (("query",), {}, "query", None),
        (("title",), {}, None, None),
        ((), {}, None, None),
        (("query", "document"), {"prompt_name": "document"}, "query", "document"),
        (("query",), {"prompt_name": "query"}, "query", ""),
        (("query", "title"), {"prompt_name": "title"}, "title", "title"),
        (("query", "document"), {"prompt_name": "none"}, "none", "none"),
        (("query", "document"), {"prompt": "mine: "}, None, None),
    ],
)
def test_a_role_takes_the_prompt_that_the_model_names_for_it(
    named: tuple[str, ...], given: dict[str, Any], query: str | None, document: str | None, tmp_path: Path
) -> None:
    source = tiny_berts.write(tmp_path / "model")
    record = {"prompts": {name: f"{name}: " for name in named}}
    (source / "config_sentence_transformers.json").write_text(json.dumps(record))
    encoder = prepare(source, tmp_path / "out").encoder
    told = {prompt.role: prompt.name for prompt in encoder.prompts(tmp_path / "out") if prompt.role}
    roles = {"query": Role.QUERY, "search_query": Role.QUERY} | dict.fromkeys(
        ("document", "passage", "search_document"), Role.DOCUMENT
    )
    assert told == {roles[name]: name for name in named if name in roles}
    for role, name in ((Role.QUERY, query), (Role.DOCUMENT, document)):
        expected = given if name is None else {**given, "prompt_name": name}
        assert encoder.role_options(role, given) == expected


def test_a_text_over_the_limit_is_refused_with_its_length(any_tokenized: Prepared) -> None:
    text = "A small bird sings. " * 40
    length = any_tokenized.encoder._tokenization.length(text)
    with pytest.raises(InvalidInput, match=rf"has {length} tokens \(.*; the limit is {POSITIONS}.*truncate"):
        sample(any_tokenized, text)
    prompted = any_tokenized.encoder._tokenization.length("query: " + text)
    with pytest.raises(InvalidInput, match=f"has {prompted} tokens"):
        sample(any_tokenized, text, prompt="query: ")


HUGE = 1 << 22


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("A small bird sings. " * (HUGE // 20), "A small bird sings. " * 40),
        ("a" * HUGE, "a" * 200),
        ("a" + "\u0301" * HUGE, "a"),
        (("q" * 101 + " ") * (HUGE // 102), ("q" * 101 + " ") * 200),
        ("\u6f22" * HUGE, "\u6f22" * 200),
        (" " * HUGE + "bird", "bird"),
        ("bird" + " \n" * HUGE + "sings", "bird sings"),
    ],
    ids=["words", "one word", "marks", "long words", "no spaces", "blanks first", "blanks between"],
)
@pytest.mark.parametrize("paired", [False, True])
def test_a_huge_text_is_cut_as_the_whole_would_be_from_a_bounded_beginning(
    bert: Prepared, text: str, same: str, paired: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, same_pair = ("A small bird. " * (HUGE // 8), "A small bird. " * 200) if paired else (None, None)
    known = Tokenizer.from_str(bert.encoder._tokenization._tokenizer.to_str())
    known.enable_truncation(POSITIONS)
    read = watch_reading(bert.encoder._tokenization, monkeypatch)
    made = bert.encoder._tokenization.encode(text, pair, truncate=True)
    whole = known.encode(same, same_pair) if same_pair else known.encode(same)
    assert made.ids.tolist() == whole.ids
    assert made.types.tolist() == whole.type_ids
    assert made.cut > 0 or not paired
    assert max(read) <= MOST_CHARACTERS
    assert sum(read) <= 4 * MOST_CHARACTERS
    if " " in text[-6:] and not paired and len(made.ids) < POSITIONS:  # places are those of the whole text, blanks and all
        assert len(text) - 5 <= made.spans.chars[-1][0] < made.spans.chars[-1][1] == len(text)


def watch_reading(tokenization: Tokenization, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many characters each call of the library reads from now on."""
    read: list[int] = []

    class Watched:
        def __init__(self, tokenizer: Any) -> None:
            self._tokenizer = tokenizer

        def encode_batch(self, texts: Sequence[Any], **options: Any) -> list[Encoding]:
            read.append(sum(len(text) if isinstance(text, str) else sum(map(len, text)) for text in texts))
            return list(self._tokenizer.encode_batch(texts, **options))

        def __getattr__(self, name: str) -> Any:
            return getattr(self._tokenizer, name)

    monkeypatch.setattr(tokenization, "_tokenizer", Watched(tokenization._tokenizer))
    monkeypatch.setattr(tokenization._beginnings, "_tokenizer", Watched(tokenization._beginnings._tokenizer))
    return read


def test_the_length_of_a_huge_text_is_estimated(any_tokenized: Prepared) -> None:
    text = "A small bird sings. " * 2000
    exact = any_tokenized.encoder._tokenization.length(text)
    with pytest.raises(InvalidInput, match="about") as refused:
        sample(any_tokenized, text)
    assert int(re.findall(r"about (\d+) tokens", refused.value.message)[0]) == pytest.approx(exact, rel=0.02)
    made = sample(any_tokenized, text, truncate=True)
    assert np.array_equal(made.inputs["input_ids"], sample(any_tokenized, text[:800], truncate=True).inputs["input_ids"])
    assert made.notes["truncated_tokens"] == pytest.approx(exact - POSITIONS, rel=0.02)


def test_any_text_beyond_the_bound_is_refused(bert: Prepared) -> None:
    with pytest.raises(InvalidInput, match=f"no more than {MOST_CHARACTERS:,} characters"):
        sample(bert, "a" * HUGE)


def test_a_caller_that_left_ends_the_reading_of_a_text(bert: Prepared) -> None:
    with working_for(lambda: True), pytest.raises(DeadlineExceeded):
        sample(bert, "a" * HUGE, truncate=True)


def test_many_characters_in_few_tokens_are_not_over_the_limit(bert: Prepared) -> None:
    made = sample(bert, "bird" + " " * 20_000 + "sings")
    assert made.tokens is not None
    assert made.tokens.chars[-1].tolist()[1] == 20_009
    assert not made.notes


def test_a_long_text_does_not_stop_other_threads(bert: Prepared) -> None:
    """The library's `encode` keeps the interpreter lock: one long text would stop the whole server."""
    work = threading.Thread(target=lambda: sample(bert, "a" * HUGE, truncate=True, unknown="allow"))
    work.start()
    ticks = 0
    while work.is_alive():
        work.join(0.001)
        ticks += 1
    assert ticks > 20


def test_it_is_cut_only_when_asked(tokenized: Prepared) -> None:
    text = "A small bird sings. " * 40
    length = tokenized.encoder._tokenization.length(text)
    made = sample(tokenized, text, truncate=True)
    assert tokenized.encoder.cost(made) == POSITIONS
    assert made.notes == {"truncated_tokens": length - POSITIONS}
    whole = tokenized.encoder._tokenization._tokenizer.encode(text).ids
    assert list(made.inputs["input_ids"]) == [*whole[: POSITIONS - 1], whole[-1]]
    assert sample(tokenized, "Bread", truncate=True).notes == {}


def test_a_long_pair_loses_tokens_of_its_longer_text(bert: Prepared) -> None:
    long, short = "A small bird sings. " * 40, "Who sings?"
    made = sample(bert, long, short, truncate=True)
    assert bert.encoder.cost(made) == POSITIONS
    assert "".join(pieces(made, short, 1)) == "Whosings?"


def test_the_second_text_of_a_pair_is_cut_to_so_many_tokens(any_tokenized: Prepared) -> None:
    """Whatever its length: as the words that it has room for would be, and counted."""
    query, document = "a small bird", "bread " * 8
    [whole] = any_tokenized.samples([TextItem(query, document)])
    for given in (document, document * 10_000):
        [cut] = any_tokenized.samples([TextItem(query, given)], pair_tokens=4)
        parts = cut.tokens.parts
        assert (parts == 1).sum() == 4
        assert (parts == 0).sum() == (whole.tokens.parts == 0).sum()
        assert cut.notes["truncated_tokens"] >= 4
    [same] = any_tokenized.samples([TextItem(query, document)], pair_tokens=90)
    assert same.inputs["input_ids"].tolist() == whole.inputs["input_ids"].tolist()


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (TextItem(""), "the text is empty"),
        (TextItem(" \n\t"), "the text is empty"),
        (TextItem("bird", ""), "the text of the pair is empty"),
        (TextItem("", "bird"), "the text is empty"),
        (TextItem("\u200b\u200b"), "no token of the text"),
        (ImageItem(b"\xff\xd8"), "reads text, not an image"),
        (np.zeros((2, 2)), "reads text, not an array"),
    ],
)
def test_what_is_no_text_is_refused(bert: Prepared, item: Item, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        list(bert.encoder.preprocess(item, BertOptions()))


def test_threads_do_not_share_a_truncation(bert: Prepared) -> None:
    """A tokenizer's truncation is its state: cutting in one thread must not cut, or forgive, another's text."""
    from concurrent.futures import ThreadPoolExecutor

    long = "A small bird sings. " * 40
    whole = bert.encoder._tokenization.length(long)

    def attempt(turn: int) -> bool:
        if turn % 2:
            return bert.encoder.cost(sample(bert, long, truncate=True)) == POSITIONS
        try:
            sample(bert, long)
        except InvalidInput as error:
            return f"{whole} tokens" in error.message
        return False

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(attempt, range(60)))


def test_a_batch_gives_what_its_texts_give_alone(any_tokenized: Prepared) -> None:
    """Over all kinds of tokenizer: white space, marks, signs of control, added tokens, the empty and the too long."""
    dice = random.Random(3)
    signs = [*"aB'-.,!\u00e9\u6f22\u0301\u200b\x07\x1c\t\n\u00a0\u3000\U0001f600", " ", "  ", " bird", "Small ", "[SEP]", "</s>"]
    texts = [TextItem("".join(dice.choices(signs, k=dice.randrange(1, 25)))) for _ in range(300)]
    odd: list[Item] = [
        TextItem(TEXT),
        TextItem(""),
        TextItem(" "),
        TextItem("a bird", "sings"),
        ImageItem(b""),
        TextItem("\u200b"),
        TextItem("bird " * 99),
    ]
    items = [*odd, *texts, *odd, TextItem("bird " * 3000), *texts[:5], TextItem("\ud800")]
    encoder = any_tokenized.encoder
    for options in (BertOptions(), BertOptions(truncate=True), BertOptions(prompt="query: ")):
        for start in range(0, len(items), 40):
            check_batch(encoder, items[start : start + 40], options)
        check_batch(encoder, [TextItem(""), TextItem("")], options)


@pytest.mark.parametrize("text", ["\U0001f996", "q" * 101, "ACGTTGCA" * 20, "\U0001f996 \U0001f996"])
def test_a_text_of_unknown_tokens_alone_is_refused_unless_it_is_allowed(bert: Prepared, text: str) -> None:
    for item in (TextItem(text), TextItem("A small bird", text)):
        with pytest.raises(InvalidInput, match="knows no token of the text") as refused:
            list(bert.encoder.preprocess(item, BertOptions()))
        assert text[:40] in refused.value.message
        assert "'allow'" in refused.value.remedy
    assert sample(bert, text, unknown="allow").notes["unknown_tokens"] == text.count(" ") + 1
    check_batch(bert.encoder, [TextItem(text), TextItem("A small bird"), TextItem(text)], BertOptions())
    check_batch(bert.encoder, [TextItem(text), TextItem("A small bird"), TextItem(text)], BertOptions(unknown="allow"))


@pytest.mark.parametrize("text", ["[PAD]", "[CLS] [SEP]", "[MASK]", "[UNK]", "[MASK] \U0001f996"])
def test_a_text_of_nothing_but_special_tokens_is_as_unknown(bert: Prepared, text: str) -> None:
    for item in (TextItem(text), TextItem("A small bird", text)):
        with pytest.raises(InvalidInput, match="knows no token of the text"):
            list(bert.encoder.preprocess(item, BertOptions()))
    assert sample(bert, f"A small bird {text}").notes == {"unknown_tokens": text.count(" ") + 1}
    assert sample(bert, text, unknown="allow").notes == {"unknown_tokens": text.count(" ") + 1}
    for options in (BertOptions(), BertOptions(unknown="error"), BertOptions(unknown="allow")):
        check_batch(bert.encoder, [TextItem(text), TextItem("A small bird"), TextItem("A bird " + text)], options)


def test_unknown_tokens_are_counted_and_may_be_refused(bert: Prepared) -> None:
    text = "A small \U0001f996 sings \U0001f996."
    assert sample(bert, text).notes == {"unknown_tokens": 2}
    assert "unknown_tokens" not in sample(bert, "A small bird").notes
    with pytest.raises(InvalidInput, match="does not know 2 of the tokens"):
        sample(bert, text, unknown="error")
    for options in (BertOptions(), BertOptions(unknown="error"), BertOptions(unknown="allow")):
        check_batch(bert.encoder, [TextItem(text), TextItem("A small bird"), TextItem("A " + text)], options)


def test_each_kind_of_tokenizer_tells_what_it_does_not_know(tokenized: Prepared) -> None:
    """Byte-level tokenizers know everything; a mark of a word's beginning alone is nothing known."""
    text = "\U0001f996\U0001f996"
    knows_bytes = (
        tokenized.encoder._tokenization._tokenizer.decode(tokenized.encoder._tokenization.encode(text).ids.tolist()) == text
    )
    if knows_bytes:
        assert "unknown_tokens" not in sample(tokenized, text).notes
    else:
        with pytest.raises(InvalidInput, match="knows no token"):
            sample(tokenized, text)
        assert sample(tokenized, "A small bird " + text).notes["unknown_tokens"] >= 1


def test_a_text_has_the_tokens_of_its_graph(any_tokenized: Prepared) -> None:
    encoder, options = any_tokenized.encoder, BertOptions(prompt_name="none")
    tokens = encoder.tokenize(TEXT, options)
    [sample] = encoder.preprocess(TextItem(TEXT), BertOptions(prompt_name="none", unknown="allow"))
    assert [token.id for token in tokens] == sample.inputs["input_ids"].tolist()
    assert all(token.text == TEXT[slice(*token.chars)] for token in tokens if token.chars)
    ids = [token.id for token in tokens]
    written = Tokenizer.from_file(str(encoder.folder / "tokenizer.json"))
    whole, plain = encoder.detokenize(ids, special=True), encoder.detokenize(ids, special=False)
    assert (whole, plain) == (written.decode(ids, skip_special_tokens=False), written.decode(ids))
    assert all(token.text in whole and token.text not in plain for token in tokens if token.chars is None)


def test_tokens_are_told_beyond_the_limit_and_with_the_prompt(tmp_path: Path) -> None:
    source = tiny_berts.write(tmp_path / "model")
    (source / "config_sentence_transformers.json").write_text(json.dumps(PROMPTS))
    encoder = prepare(source, tmp_path / "out").encoder
    assert len(encoder.tokenize("bird " * 2 * POSITIONS, BertOptions())) > encoder.max_tokens == POSITIONS
    begin = encoder.tokenize("bird", BertOptions(prompt_name="query"))[1]
    assert (begin.text, begin.chars) == ("query", (0, 5))


def test_what_cannot_be_tokenized_is_refused(bert: Prepared) -> None:
    with pytest.raises(InvalidInput, match="too long"):
        bert.encoder.tokenize("a" * (MOST_CHARACTERS + 1), BertOptions())
    with pytest.raises(InvalidInput, match="token ids"):
        bert.encoder.detokenize([0, 1 << 20], special=True)
