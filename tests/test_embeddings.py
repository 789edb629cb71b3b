"""Embeddings: pairs of rows, bit for bit beside the reference; what is drawn and counted; words that share contexts."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from conftest import needs_native

import fastopt
from fastopt import kernels
from fastopt.elementary import power
from fastopt.models import GloVe, SkipGram, embeddings, pair_reference, pairs
from fastopt.models.pair_reference import Pairs, Text
from fastopt.models.pairs import PairTrainer
from fastopt.optimizers.base import ALIASES, by_name

WORDS = 40


def text(rng: np.random.Generator, n: int = 300, window: int = 3, epoch: int = 0) -> Text:
    """Sentences of words of unequal frequency, of which some are left out and some are one word long."""
    words = np.minimum(rng.geometric(0.1, n) - 1, WORDS - 1).astype(np.int32)
    words[rng.random(n) < 0.08] = -1
    keep = np.full(WORDS, 0xFFFFFFFF, np.uint32)
    keep[:6] = 1 << 31
    threshold = rng.integers(0, 1 << 32, WORDS).astype(np.uint32)
    return Text(words, keep, threshold, rng.integers(0, WORDS, WORDS).astype(np.int32), window, epoch, 0x123456789)


def listed(rng: np.random.Generator, n: int = 60) -> Pairs:
    rows, columns = rng.integers(0, WORDS, (2, n)).astype(np.int32)
    return Pairs(rows, columns, rng.standard_normal(n), rng.uniform(0, 1, n), rng.permutation(n).astype(np.int32))


def trainer(
    name: str, dtype: type, backend: str, dim: int, loss: str = "log_loss", targets: int = 4, lr: float = 0.05
) -> PairTrainer:
    cls, options = by_name(name)
    options = cls.fill_options({**options, "lr": lr})
    rng = np.random.default_rng(4)
    u, v = (rng.uniform(-0.5, 0.5, (2, WORDS, dim)) / dim**0.5).astype(dtype)
    fixed = (-1, -1)
    if loss == "squared_error":
        fixed, targets = (dim - 1, dim - 2), 1
        u[:, -1] = v[:, -2] = 1
    return PairTrainer(u, v, cls, options, loss, targets, fixed, backend)


def assert_tables(got: PairTrainer, want: PairTrainer, what: object) -> None:
    for a, b in zip(got.tables, want.tables, strict=True):
        assert (a.view(f"u{a.itemsize}") == b.view(f"u{b.itemsize}")).all(), what


def names() -> list[str]:
    """The optimizers that can train rows."""
    found = []
    for name in [*(k for k, cls in fastopt.Optimizer.known.items() if cls.for_samples), *ALIASES]:
        try:
            trainer(name, np.float32, "numpy", 2)
        except fastopt.UnsupportedError:
            continue
        found.append(name)
    return found


NAMES = names()


def test_what_can_train_rows():
    assert {"sgd", "momentum", "nag", "adagrad", "adam", "adamw", "rmsprop", "adadelta", "lion"} <= set(NAMES)
    with pytest.raises(fastopt.UnsupportedError, match="FTRL moves rows without a gradient"):
        trainer("ftrl", np.float32, "numpy", 2)


# ---------------------------------------------------------------------------------------------------------------- bits


@needs_native
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_pairs_equal_the_reference(name, dtype, use_build, forced, rng):
    """Both losses, one thread pair after pair, and batches by several threads."""
    forced(3)
    cases = [("log_loss", text(rng, 60), 7), ("squared_error", listed(rng, 30), 50)]
    for loss, source, dim in cases:
        for size in (0, 11):
            want = trainer(name, dtype, "numpy", dim, loss)
            n = len(source[0])
            losses = want.train(source, 0, n, size)
            for isa in kernels.runnable():
                use_build(isa)
                for threads in (1, 2, 3) if size else (1,):
                    got = trainer(name, dtype, "native", dim, loss)
                    found = got.train(source, 0, n, size, threads)
                    what = f"{isa} {loss} {size} {threads}"
                    assert_tables(got, want, what)
                    assert found[1] == losses[1] and abs(found[0] - losses[0]) < 1e-9 * losses[0], what
                    padding = got.tables[0].reshape(WORDS, -1, got.width)[:, 0, dim:]
                    assert not padding.any(), "padding stays zero"


@needs_native
@pytest.mark.parametrize("dim", [1, 7, 16, 100, 1030])
def test_any_width(dim, use_build, rng):
    source = text(rng, 40)
    for size in (0, 9):
        want = trainer("adam", np.float32, "numpy", dim)
        want.train(source, 0, 40, size)
        for isa in kernels.runnable():
            use_build(isa)
            got = trainer("adam", np.float32, "native", dim)
            got.train(source, 0, 40, size)
            assert_tables(got, want, (isa, size))


@needs_native
def test_pieces_of_any_length_give_the_same(rng, monkeypatch):
    """Sequential and in batches: what is drawn depends on the place in the text, not on where a call begins; nor does Adam's
    step."""
    source = text(rng, 500, window=4)
    for size in (0, 20):
        whole, parts = (trainer("adam", np.float32, "native", 9) for _ in range(2))
        whole.train(source, 0, 500, size)
        monkeypatch.setattr(pairs, "WINDOW", 13)
        for begin, end in [(0, 20), (20, 300), (300, 500)]:
            parts.train(source, begin, end, size)
        monkeypatch.undo()
        assert_tables(parts, whole, size)


@needs_native
@pytest.mark.parametrize("name", ["sgd", "adagrad", "adam"])
def test_lock_free_threads_learn(name, forced, rng):
    """Where no two pairs share a row, what threads make is what one makes; where they do, it is near."""
    forced(4)
    n = 20
    apart = Pairs(*np.arange(2 * n, dtype=np.int32).reshape(2, n), np.ones(n), np.ones(n), np.arange(n, dtype=np.int32))
    one, many = (trainer(name, np.float32, "native", 20, "squared_error") for _ in range(2))
    one.train(apart, 0, n)
    many.train(apart, 0, n, 0, 4)
    if name != "adam":  # whose steps are numbered otherwise
        assert_tables(many, one, name)
    source = text(rng, 4000)
    one, many = (trainer(name, np.float32, "native", 8, lr=0.01) for _ in range(2))
    (a, count), (b, same) = one.train(source, 0, 4000), many.train(source, 0, 4000, 0, 4)
    assert count == same and abs(a - b) < 0.05 * a


# --------------------------------------------------------------------------------------------------------------- drawing


@needs_native
@pytest.mark.parametrize("k", [2, 4, 6, 10])
def test_what_is_drawn_equals_the_reference(k, rng):
    source = text(rng, 200, window=5, epoch=3)
    u, at, v = np.empty(2000, np.int32), np.empty(2000, np.int32), np.empty(2000 * k, np.int32)
    for begin, end in [(0, 200), (57, 58), (31, 130), (199, 200)]:
        n = kernels.drivers.drawn_pairs(tuple(source), k, begin, end, u, v, at)
        want = list(pair_reference.examples(source, k, begin, end))
        assert n == len(want)
        for e, (i, js, place, _, _) in enumerate(want):
            assert (u[e], at[e]) == (i, place)
            assert [j for j in v[e * k : (e + 1) * k] if j >= 0] == js


def test_windows_reach_over_words_left_out_and_end_with_the_sentence():
    words = np.array([0, 1, 2, -1, 3, 4], np.int32)
    keep = np.full(5, 0xFFFFFFFF, np.uint32)
    keep[1] = 0  # but for one draw in 2**32
    every = Text(words, keep, keep, np.zeros(5, np.int32), 1, 0, 1)
    pairs = [(i, js[0]) for i, js, *_ in pair_reference.examples(every, 2, 0, 6)]
    assert pairs == [(2, 0), (0, 2), (4, 3), (3, 4)]


def test_reach_and_negatives_have_their_frequencies():
    n, window = 6000, 4
    counts = np.array([3000, 2000, 900, 100])
    words = np.random.default_rng(0).choice(4, n, p=counts / counts.sum()).astype(np.int32)
    threshold, other = embeddings.alias_table(power(counts.astype(np.float64), 0.75))
    source = Text(words, np.full(4, 0xFFFFFFFF, np.uint32), threshold, other, window, 0, 9)
    want = counts**0.75 / (counts**0.75).sum()
    exact = np.bincount(np.arange(4), (threshold + 1.0) / 2**32, 4) + np.bincount(
        other, 1 - (threshold + 1.0) / 2**32, 4
    )
    np.testing.assert_allclose(exact / 4, want, atol=1e-9)
    found = list(pair_reference.examples(source, 6, 100, 300))
    assert abs(len(found) / 200 - (window + 1)) < 0.6  # twice the mean reach
    drawn = np.bincount([j for _, js, *_ in found for j in js[1:]], minlength=4) / (5 * len(found))
    seen = np.bincount([js[0] for _, js, *_ in found], minlength=4) / len(found)
    np.testing.assert_allclose(drawn, want * (1 - seen), atol=0.03)  # one that is the neighbour is left out
    share = (embeddings.kept_share(counts, 0.05) + 1.0) / 2**32
    f = counts / counts.sum()
    np.testing.assert_allclose(share, np.minimum(1, np.sqrt(0.05 / f) + 0.05 / f), atol=1e-9)
    assert (embeddings.kept_share(counts, 0.0) == 0xFFFFFFFF).all()


# --------------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
@pytest.mark.parametrize("loss", ["log_loss", "squared_error"])
def test_gradients_are_those_of_the_loss(loss, backend, rng):
    """By central differences; a step of SGD with rate 1 over one batch shows the whole gradient."""
    source = text(rng, 30) if loss == "log_loss" else listed(rng, 30)
    n, dim = len(source[0]), 6

    def at(shift: np.ndarray | None = None, direction: list[np.ndarray] | None = None):
        made = trainer("sgd", np.float64, backend, dim, loss, lr=1.0)
        if direction is not None:
            for table in (0, 1):
                made.rows(table)[...] += shift * direction[table]
        before = [made.rows(table).copy() for table in (0, 1)]
        value, _ = made.train(source, 0, n, n)
        return value, [b - made.rows(table) for table, b in enumerate(before)]

    _, gradients = at()
    for _ in range(3):
        direction = [rng.standard_normal((WORDS, dim)) for _ in range(2)]
        if loss == "squared_error":  # the columns that stay 1
            direction[0][:, -1] = direction[1][:, -2] = 0
        slope = (at(1e-5, direction)[0] - at(-1e-5, direction)[0]) / 2e-5
        want = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
        assert abs(slope - want) < 1e-6 * max(1, abs(want))


@pytest.mark.parametrize("backend", ["numpy", pytest.param("native", marks=needs_native)])
def test_scores_far_from_zero(backend):
    """Where exp overflows, the loss does not; and a NaN is reported, not hidden."""
    source = Text(np.array([0, 1], np.int32), *(np.full(2, 0xFFFFFFFF, np.uint32),) * 2, np.zeros(2, np.int32), 1, 0, 5)
    cls, options = by_name("sgd")
    options = cls.fill_options({**options, "lr": 0.0})
    for scale in (1e3, -1e3, 30.0, -36.0):
        u, v = np.full((2, 1), scale), np.ones((2, 1))
        made = PairTrainer(u, v, cls, options, "log_loss", 3, (-1, -1), backend)
        drawn = list(pair_reference.examples(source, 3, 0, 2))
        want = sum(np.logaddexp(0, -scale) + (len(js) - 1) * np.logaddexp(0, scale) for _, js, *_ in drawn)
        np.testing.assert_allclose(made.train(source, 0, 2)[0], want, rtol=1e-12)
    made = PairTrainer(np.full((2, 1), np.nan), v, cls, options, "log_loss", 3, (-1, -1), backend)
    with pytest.raises(fastopt.NonFiniteError, match="smaller lr"):
        made.train(source, 0, 2)


# ------------------------------------------------------------------------------------------------------------------ text


def test_co_occurrences_equal_a_plain_count(rng, monkeypatch):
    monkeypatch.setattr(embeddings, "_COUNTED", 37)
    monkeypatch.setattr(embeddings, "_HELD", 200)
    words = text(rng, 400).words
    for window, symmetric in [(1, True), (4, True), (10, False)]:
        want: dict[tuple[int, int], float] = {}
        for p in range(len(words)):
            for d in range(1, window + 1):
                if p - d < 0 or words[p] < 0 or (words[p - d : p] < 0).any():
                    break
                for a, b in [(p, p - d), (p - d, p)][: 1 + symmetric]:
                    key = (int(words[a]), int(words[b]))
                    want[key] = want.get(key, 0.0) + 1 / d
        rows, columns, found = embeddings.cooccurrences(words, WORDS, window, symmetric)
        assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == sorted(want)
        np.testing.assert_allclose(found, [want[key] for key in sorted(want)], rtol=1e-13)


def test_a_text_becomes_numbers(tmp_path):
    plain = [["the", "cat", "saw", "the", "dog"], [], ["it's"], ["the", "cat"]]
    corpus = embeddings.corpus_of(plain, 2)
    assert corpus.vocabulary == ["the", "cat"] and corpus.counts.tolist() == [3, 2]
    assert corpus.words.tolist() == [0, 1, 0, -1, 0, 1, -1]
    path = tmp_path / "text.txt"
    path.write_text("The cat, saw -- the Dog!\n\nIt's 2 o'clock\nTHE cat_", encoding="utf-8")
    again = embeddings.corpus_of(path, 1)
    assert again.vocabulary == ["the", "cat", "saw", "dog", "it's", "o'clock"]
    with gzip.open(tmp_path / "text.txt.gz", "wt", encoding="utf-8") as file:
        file.write(path.read_text(encoding="utf-8"))
    assert embeddings.corpus_of(str(path) + ".gz", 1).words.tolist() == again.words.tolist()
    path.write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(fastopt.DTypeError, match="is not UTF-8"):
        embeddings.corpus_of(path, 1)
    assert embeddings.corpus_of(iter(plain), 2).words.tolist() == corpus.words.tolist()


# ---------------------------------------------------------------------------------------------------------------- models


def planted(rng: np.random.Generator, n: int = 400) -> list[list[str]]:
    """Topics of words that are used in turn: words of a topic share their contexts."""
    made = []
    for _ in range(n):
        topic = "abcd"[rng.integers(4)]
        made.append([f"{topic}{k}" for k in rng.integers(0, 6, 12)])
    return made


SETTINGS = {
    "skipgram": lambda **more: SkipGram(16, min_count=1, sample=0, epochs=10, lr=0.1, random_state=1, **more),
    "glove": lambda **more: GloVe(8, min_count=1, epochs=10, lr=0.1, window=4, random_state=1, **more),
}
MODES = [
    {"mode": "sequential"},
    {"mode": "minibatch", "n_jobs": 2, "batch_size": 8, "epochs": 15},
    {"mode": "hogwild", "n_jobs": 2},
    {"mode": "minibatch", "optimizer": "adam", "lr": 0.01},
]


@needs_native
@pytest.mark.parametrize("more", MODES, ids=lambda more: "-".join(map(str, more.values())))
@pytest.mark.parametrize("name", SETTINGS)
def test_words_that_share_contexts_become_neighbours(name, more, rng):
    model = SETTINGS[name]()
    for parameter, value in more.items():
        setattr(model, parameter, value)
    assert model.fit(planted(rng)) is model
    assert model.vectors_.shape == (24, model.dim) and model.vectors_.dtype == np.float32
    # Lock-free threads lose updates of so few words when they run at once, which some neighbours show; and when they take turns
    # the loss falls within the first pass. Chance alone would be right for 5 in 23.
    wild = model.mode == "hogwild"
    assert len(model.losses_) == model.epochs and model.losses_[-1] < (0.98 if wild else 0.96) * model.losses_[0]
    right = [other[0] == word[0] for word in model.vocabulary_ for other, _ in model.most_similar(word, 5)]
    assert np.mean(right) >= (0.75 if wild else 1), right


@needs_native
@pytest.mark.parametrize("name", SETTINGS)
def test_the_seed_decides_and_threads_do_not(name, forced, rng):
    forced(3)
    sentences = planted(rng, 60)
    make = SETTINGS[name]
    for mode in ("sequential", "minibatch"):
        first = make(mode=mode).fit(sentences)
        again = make(mode=mode, n_jobs=3).fit(sentences)
        assert (first.vectors_ == again.vectors_).all()
        np.testing.assert_allclose(first.losses_, again.losses_, rtol=1e-12)
    other = make(mode="sequential")
    other.random_state = 2
    assert (other.fit(sentences).vectors_ != first.vectors_).any()


def test_vectors_of_glove_are_sums_and_its_scores_the_logarithms(rng, monkeypatch):
    """With enough numbers in a vector every co-occurrence can be met; the trainer's tables have columns of biases and ones."""
    kept: list[PairTrainer] = []
    train = PairTrainer.train

    def watched(self: PairTrainer, *arguments: int) -> tuple[float, int]:
        kept.append(self)
        return train(self, *arguments)

    monkeypatch.setattr(PairTrainer, "train", watched)
    sentences = planted(rng, 40)
    model = GloVe(30, min_count=1, window=3, x_max=1, epochs=150, lr=0.3, random_state=0).fit(sentences)
    u, v = (kept[-1].rows(table) for table in (0, 1))
    assert (model.vectors_ == u[:, :30] + v[:, :30]).all() and (model.contexts_ == v[:, :30]).all()
    assert (u[:, -1] == 1).all() and (v[:, -2] == 1).all()
    corpus = embeddings.corpus_of(sentences, 1)
    rows, columns, found = embeddings.cooccurrences(corpus.words, 24, 3, True)
    np.testing.assert_allclose((u[rows] * v[columns]).sum(axis=1), np.log(found), atol=0.1)


def test_models_without_kernels(rng, monkeypatch):
    monkeypatch.setenv("FASTOPT_BACKEND", "numpy")
    for make in SETTINGS.values():
        model = make()
        model.epochs = 2
        model.fit(planted(rng, 6))
        assert model.losses_[1] < model.losses_[0]


def test_the_rate_falls_and_a_schedule_is_asked(rng):
    """The last step of a number's fall is 1/10000 of it."""
    model = SkipGram(4, min_count=1, epochs=2)
    _, options = model._options({"sgd": {"lr": 0.025}}, 10)
    assert options["lr"](0) == 0.025 and options["lr"](10) == pytest.approx(0.025e-4)
    asked: list[int] = []

    def rate(step: int) -> float:
        asked.append(step)
        return 0.01

    corpus = planted(rng, 5)
    SkipGram(4, min_count=1, epochs=2, lr=rate).fit(corpus)
    assert set(range(2 * 5 * 13)) <= set(asked), "a step is a place of the text: 12 words and an end"


def test_questions_and_files(tmp_path, rng):
    model = SETTINGS["skipgram"]().fit(planted(rng, 60))
    word = model.vocabulary_[3]
    assert (model.vector(word) == model.vectors_[3]).all()
    unit = model.vectors_ / np.linalg.norm(model.vectors_, axis=1, keepdims=True)
    cosines = unit @ unit[3]
    found = model.most_similar(word, 7)
    assert [w for w, _ in found] == [model.vocabulary_[k] for k in np.argsort(-cosines)[1:8]]
    np.testing.assert_allclose([c for _, c in found], np.sort(cosines)[::-1][1:8], rtol=1e-5)
    assert model.most_similar(model.vector(word), 1)[0][0] == word
    assert len(model.most_similar(word, 1000)) == 23 and model.most_similar(word, 0) == []
    a, b, c = (model.index_[w] for w in ("a0", "a1", "b0"))
    want = unit @ (unit[b] - unit[a] + unit[c])
    want[[a, b, c]] = -9
    assert [w for w, _ in model.analogy("a0", "a1", "b0", 21)] == [model.vocabulary_[k] for k in np.argsort(-want)[:21]]
    assert model.analogy("a0", "a1", "a0", 30)[21:] and len(model.analogy("a0", "a0", "a0", 30)) == 23
    path = tmp_path / "vectors.txt"
    model.save(path)
    again = SkipGram.load(path)
    assert (again.vectors_ == model.vectors_).all() and again.vocabulary_ == model.vocabulary_
    assert again.dim == 16 and again.counts_ is None and again.most_similar(word, 7) == found
    lines = path.read_text().splitlines()
    for damaged, match in [
        (["x"], "does not begin"),
        (["24 0", *lines[1:]], "does not begin"),
        (lines[:-1], "23 different words"),
        ([lines[0], lines[1], *lines[1:-1]], "different words"),
        ([lines[0], lines[1] + " 1", *lines[2:]], "line 2: expected a word and 16 numbers"),
        ([lines[0], "w " + "z " * 16, *lines[2:]], "line 2"),
        (["1" + "0" * 40 + " 16", *lines[1:]], "does not begin"),
        ([*lines[:-1], "w\udcff " + "1 " * 16], "line 25: .* is not UTF-8"),
    ]:
        path.write_text("\n".join(damaged), encoding="utf-8", errors="surrogateescape")
        with pytest.raises(fastopt.CheckpointError, match=match):
            SkipGram.load(path)


def test_what_cannot_be_written_leaves_the_file_alone(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("precious")
    for word in ("\ud800", "a b", ""):
        model = SkipGram(3, min_count=1, sample=0, epochs=1).fit([["one", word]] * 30)
        with pytest.raises(fastopt.CheckpointError, match="cannot stand"):
            model.save(path)
        assert path.read_text() == "precious" and len(list(tmp_path.iterdir())) == 1


def test_a_fit_that_fails_leaves_the_model_as_it_was(monkeypatch):
    model = SkipGram(3, min_count=1, sample=0, epochs=2).fit([["one", "two"]] * 30)
    vectors, losses, train = model.vectors_.copy(), list(model.losses_), PairTrainer.train

    def stops(self: PairTrainer, *arguments: int) -> tuple[float, int]:
        if self.steps:
            raise KeyboardInterrupt
        return train(self, *arguments)

    monkeypatch.setattr(PairTrainer, "train", stops)
    with pytest.raises(KeyboardInterrupt):
        model.fit([["three", "four"]] * 30)
    assert model.losses_ == losses and (model.vectors_ == vectors).all() and "one" in model.index_


@pytest.mark.parametrize(
    ("sentences", "error", "match"),
    [
        ([], fastopt.ShapeError, "there are none at all"),
        ([[], []], fastopt.ShapeError, "none at all"),
        ([["a", "b"]], fastopt.ShapeError, "min_count=2 times.*comes 1 times"),
        ([["a"] * 10], fastopt.ShapeError, "have 1 different words"),
        ([["a"], ["b"], ["a"], ["b"]], fastopt.ShapeError, "no two words beside each other"),
        (["a b"], fastopt.DTypeError, "sentence 0 must be a list of words.*split"),
        ([["a"], 3], fastopt.DTypeError, "sentence 1"),
        ([[["a"]]], fastopt.DTypeError, "sentence 0"),
        ([[1, 2, 1, 2]], fastopt.DTypeError, "words must be strings, got 1"),
        (7, fastopt.DTypeError, "or the path of a text file, got int"),
    ],
)
@pytest.mark.parametrize("cls", [SkipGram, GloVe])
def test_degenerate_texts(cls, sentences, error, match):
    model = cls(4, min_count=2)
    with pytest.raises(error, match=match):
        model.fit(sentences)
    assert not hasattr(model, "vectors_")


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"dim": 0}, "dim"),
        ({"window": 0}, "window"),
        ({"negative": 0}, "negative"),
        ({"sample": -1}, "sample"),
        ({"min_count": 0}, "min_count"),
        ({"optimizer": "adem"}, "Did you mean 'adam'"),
        ({"lr": -0.1}, "lr"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"mode": "fast"}, "mode"),
        ({"n_jobs": 0}, "n_jobs"),
        ({"random_state": "x"}, "random_state"),
        ({"progress": 1}, "progress"),
        ({"verbose": -1}, "verbose"),
    ],
)
def test_parameters_are_checked(parameters, match):
    with pytest.raises(fastopt.HyperParameterError, match=match):
        SkipGram(**parameters).fit([["a", "b"] * 5])
    for name, value in [("x_max", 0), ("alpha", 0), ("alpha", 2), ("symmetric", 1)]:
        with pytest.raises(fastopt.HyperParameterError, match=name):
            GloVe(**{name: value}).fit([["a", "b"] * 5])


def test_questions_before_and_beside(rng):
    with pytest.raises(fastopt.StateError, match="call fit"):
        GloVe().most_similar("a")
    model = SkipGram(3, min_count=1, sample=0, epochs=1).fit([["one", "two"]] * 3)
    with pytest.raises(KeyError, match="Did you mean 'two'"):
        model.vector("twoo")
    with pytest.raises(fastopt.ShapeError, match="shape"):
        model.most_similar(np.zeros(4))
    with pytest.raises(fastopt.HyperParameterError, match="use sample=0"):
        SkipGram(3, min_count=1, sample=1e-9).fit([["one", "two"]] * 3)
    assert model.analogy("one", "two", "one") == []
    for name, cls in fastopt.Optimizer.known.items():
        if not cls.for_samples:
            with pytest.raises(fastopt.UnsupportedError, match=f"{cls.__name__} cannot train rows one by one"):
                SkipGram(3, min_count=1, optimizer=name).fit([["one", "two"]] * 3)
    with pytest.raises(fastopt.UnsupportedError, match="FTRL"):
        SkipGram(3, min_count=1, optimizer="ftrl").fit([["one", "two"]] * 3)
    assert repr(SkipGram(3, epochs=2)) == "SkipGram(dim=3, epochs=2)"


def test_verbose_and_progress(capsys):
    SkipGram(3, min_count=1, sample=0, epochs=2, verbose=1, progress=True).fit([["one", "two"]] * 3)
    out = capsys.readouterr()
    assert out.out.count("loss") == 2 and "epoch 2/2" in out.err
