"""Vectors of words, of the pairs that stand near each other in a text: `SkipGram` and `GloVe`."""

from __future__ import annotations

import gzip
import inspect
import itertools
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from .. import checks, config, kernels
from ..checkpoint import replacing
from ..checks import Array
from ..elementary import log, power
from ..errors import (
    CheckpointError,
    DTypeError,
    HyperParameterError,
    ShapeError,
    StateError,
    UnsupportedError,
    did_you_mean,
)
from ..optimizers.base import by_name, choose_backend
from ..schedules import Polynomial
from .pair_reference import Pairs, Source, Text
from .pairs import PairTrainer
from .samples import new_order

_MODES = ("sequential", "minibatch", "hogwild")
_THREADS = kernels.threads.LIMIT
_WORD = re.compile(r"(?:[^\W\d_]|')+")
#: Places of the text that are trained between two looks at the keyboard and the bar.
_PIECE = 1 << 18
#: Places of the text of which co-occurrences are counted at a time, and counts of which are kept before they are summed.
_COUNTED, _HELD = 1 << 18, 1 << 24
#: Of the rate at first, what is left at the end (as in word2vec).
_END = 1e-4


class Corpus(NamedTuple):
    """A text in numbers: those of its words, the most frequent first, with -1 between sentences."""

    words: Array
    vocabulary: list[str]
    counts: Array


def sentences_of(path: str | os.PathLike[str]) -> Iterator[list[str]]:
    """The lines of a text file (UTF-8; where its name ends in .gz, compressed), in lower case, as lists of words: runs of
    letters and apostrophes. Everything else stands between words."""
    opener = gzip.open if os.fspath(path).endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8") as file:
        try:
            for line in file:
                yield _WORD.findall(line.lower())
        except UnicodeDecodeError as error:
            raise DTypeError(f"{os.fspath(path)} is not UTF-8 ({error}); convert it, or pass lists of words") from error


def corpus_of(sentences: Any, min_count: int) -> Corpus:
    """The words of `sentences` (see `SkipGram.fit`) that come at least `min_count` times, as numbers."""
    if isinstance(sentences, (str, os.PathLike)):
        sentences = sentences_of(sentences)
    if not isinstance(sentences, Iterable):
        raise DTypeError(
            f"sentences must be lists of words, or the path of a text file, got {type(sentences).__name__}"
        )
    numbers: dict[str, int] = {}
    codes = array("i")
    for number, sentence in enumerate(sentences):
        if isinstance(sentence, (str, bytes)) or not isinstance(sentence, Iterable):
            raise DTypeError(f"sentence {number} must be a list of words, got {sentence!r:.80}; split it into words")
        try:
            codes.extend([numbers.setdefault(word, len(numbers)) for word in sentence])
        except TypeError:  # a list among them
            raise DTypeError(f"sentence {number} must be a list of words, got {sentence!r:.80}") from None
        codes.append(-1)
    for word in numbers:
        if not isinstance(word, str):
            raise DTypeError(f"words must be strings, got {word!r:.80}")
    found = np.frombuffer(codes, np.int32) if codes else np.empty(0, np.int32)
    counts = np.bincount(found[found >= 0], minlength=len(numbers))
    order = np.argsort(-counts, kind="stable")  # of the same count: the first that came
    order = order[counts[order] >= min_count]
    if len(order) < 2:
        most = f"the most frequent comes {counts.max()} times" if len(counts) else "there are none at all"
        raise ShapeError(
            f"sentences have {len(order)} different words that come at least min_count={min_count} times, and 2 are "
            f"needed; {most}"
        )
    place = np.full(len(numbers) + 1, -2, np.int32)
    place[-1] = -1  # of code -1
    place[order] = np.arange(len(order), dtype=np.int32)
    words = place[found]
    words = words[words > -2]
    ends = words < 0
    words = np.ascontiguousarray(words[~(ends & np.append(True, ends[:-1]))])  # no empty sentences
    names = list(numbers)
    return Corpus(words, [names[k] for k in order.tolist()], counts[order])


def alias_table(weights: Array) -> tuple[Array, Array]:
    """Walker's alias method (1977) as Vose set it up (1991): slot k is k if 32 random bits are at most ``threshold[k]``
    (uint32), else ``other[k]`` (int32)."""
    n = len(weights)
    share = [float(w) * n for w in weights / sum(weights.tolist())]
    threshold, other = np.full(n, 0xFFFFFFFF, np.uint32), np.arange(n, dtype=np.int32)
    small = [k for k in range(n) if share[k] < 1.0]
    large = [k for k in range(n) if share[k] >= 1.0]
    while small and large:
        k, rich = small.pop(), large[-1]
        threshold[k] = max(int(share[k] * 4294967296.0) - 1, 0)
        other[k] = rich
        share[rich] -= 1.0 - share[k]
        if share[rich] < 1.0:
            small.append(large.pop())
    return threshold, other


def kept_share(counts: Array, sample: float) -> Array:
    """Of each word, the share that is kept, times 2**32 less 1 (uint32): ``sqrt(t / f) + t / f`` of its frequency f."""
    ratio = sample * float(counts.sum()) / counts if sample > 0 else np.ones(len(counts))
    share: Array = np.minimum(np.sqrt(ratio) + ratio, 1.0)
    return np.maximum(share * 4294967296.0 - 1.0, 0.0).astype(np.uint32)


def cooccurrences(words: Array, n_words: int, window: int, symmetric: bool) -> tuple[Array, Array, Array]:
    """How often words stand near each other: rows, columns (int32), and the sum of 1 / distance (float64).

    Each word with those up to `window` places before it in its sentence; where `symmetric`, also the other way round.
    Sorted by row and column; summed from the smallest distance to the largest.
    """
    bits = window.bit_length()
    if n_words**2 << bits >= 1 << 63:
        raise ShapeError(f"{n_words} words in a window of {window} are too many to count; raise min_count")
    sentence = np.cumsum(words < 0)
    held: list[tuple[Array, Array]] = []

    def summed() -> tuple[Array, Array]:
        keys, at = np.unique(np.concatenate([k for k, _ in held]), return_inverse=True)
        return keys, np.bincount(at, np.concatenate([c for _, c in held]), len(keys))

    for begin in range(0, len(words), _COUNTED):
        parts = []
        for distance in range(1, window + 1):
            first = max(begin - distance, 0)
            before = words[first : max(begin + _COUNTED - distance, 0)]
            after = words[first + distance : begin + _COUNTED]
            before = before[: len(after)]
            same = sentence[first : first + len(after)] == sentence[first + distance : first + distance + len(after)]
            same &= before >= 0  # an end belongs to the sentence after it
            a, b = after[same].astype(np.int64), before[same].astype(np.int64)
            parts.append(((a * n_words + b) << bits) + distance)
            if symmetric:
                parts.append(((b * n_words + a) << bits) + distance)
        held.append(np.unique(np.concatenate(parts), return_counts=True))
        if sum(len(k) for k, _ in held) > _HELD:
            held = [summed()]
    keys, counts = summed()
    pair, far = keys >> bits, keys & ((1 << bits) - 1)
    new = np.append(True, pair[1:] != pair[:-1])
    at, pair = np.cumsum(new) - 1, pair[new]
    found = np.zeros(len(pair))
    for d in range(1, window + 1):
        here = far == d
        found[at[here]] += counts[here] / float(d)
    return (pair // n_words).astype(np.int32), (pair % n_words).astype(np.int32), found


class _Embedding:
    """What both models share: their corpus, training, and what is asked of the vectors."""

    vectors_: Array
    contexts_: Array
    vocabulary_: list[str]
    index_: dict[str, int]
    counts_: Array | None
    losses_: list[float]

    dim: int
    window: int
    min_count: int
    optimizer: str
    lr: Any
    epochs: int
    batch_size: int
    mode: str
    n_jobs: int | None
    random_state: Any
    verbose: Any
    progress: bool

    def __repr__(self) -> str:
        signature = inspect.signature(type(self)).parameters
        given = [f"{k}={getattr(self, k)!r}" for k, p in signature.items() if getattr(self, k) is not p.default]
        return f"{type(self).__name__}({', '.join(given)})"

    def _check_parameters(self) -> None:
        checks.integer(1, 1 << 16)("dim", self.dim)
        checks.integer(1, 1000)("window", self.window)
        checks.integer(1)("min_count", self.min_count)
        cls, _ = by_name(self.optimizer)
        if not cls.for_samples:
            raise UnsupportedError(
                f"{cls.__name__} cannot train rows one by one; choose another optimizer, such as 'sgd', 'adagrad' or 'adam'"
            )
        checks.optional(checks.rate)("lr", self.lr)
        checks.integer(1)("epochs", self.epochs)
        checks.integer(1, 1 << 20)("batch_size", self.batch_size)
        checks.one_of(*_MODES)("mode", self.mode)
        if self.n_jobs != -1:
            checks.optional(checks.integer(1, _THREADS))("n_jobs", self.n_jobs)
        if not isinstance(self.verbose, (bool, np.bool_)):
            checks.integer(0)("verbose", self.verbose)
        checks.flag("progress", self.progress)

    def _generator(self) -> np.random.Generator:
        try:
            return np.random.default_rng(self.random_state)
        except (TypeError, ValueError):
            raise HyperParameterError(
                f"random_state must be None, a whole number of at least 0 or a Generator, got {self.random_state!r:.80}"
            ) from None

    def _n_threads(self) -> int:
        if self.mode == "sequential" or self.n_jobs is None:
            return 1
        return config.get_num_threads() if self.n_jobs == -1 else int(self.n_jobs)

    def _options(self, defaults: dict[str, dict[str, Any]], falls_over: int) -> tuple[Any, dict[str, Any]]:
        """The optimizer and its options; a rate that is a number falls over so many steps, if there are any."""
        cls, options = by_name(self.optimizer)
        own = {**defaults.get(self.optimizer, {}), **({} if self.lr is None else {"lr": self.lr})}
        if "weight_decay" in inspect.signature(cls).parameters:
            options["weight_decay"] = 0.0
        options = cls.fill_options({**options, **own})
        rate = options["lr"]
        if falls_over and not callable(rate):
            options = cls.fill_options({**options, "lr": Polynomial(rate, falls_over, rate * _END)})
        return cls, options

    def _train(self, trainer: PairTrainer, source: Source, size: int, unit: str, epoch: int) -> float:
        """One pass; returns its mean loss."""
        piece = -(-_PIECE // max(size, 1)) * max(size, 1)
        n = len(source[0])
        total, count = 0.0, 0
        bar = None
        if self.progress:
            bar = checks.need("tqdm", "cli").tqdm(
                total=n, desc=f"epoch {epoch + 1}/{self.epochs}", unit=unit, unit_scale=True, leave=False
            )
        try:
            for begin in range(0, n, piece):
                end = min(begin + piece, n)
                loss, pairs = trainer.train(source, begin, end, size, self._n_threads())
                total, count = total + loss, count + pairs
                if bar is not None:
                    bar.set_postfix(loss=f"{total / max(count, 1):.4f}")
                    bar.update(end - begin)
        finally:
            if bar is not None:
                bar.close()
        if not count:
            raise HyperParameterError("sample is too small for this text: no pair of words was kept; use sample=0")
        if self.verbose:
            print(f"epoch {epoch + 1}: loss {total / count:.6g}")
        return total / count

    def _begin(self, sentences: Any) -> tuple[Corpus, np.random.Generator]:
        self._check_parameters()
        draw = self._generator()
        corpus = corpus_of(sentences, self.min_count)
        inside = corpus.words >= 0
        if not (inside[1:] & inside[:-1]).any():
            raise ShapeError("sentences have no two words beside each other; join them to longer sentences")
        return corpus, draw

    def _keep(self, corpus: Corpus, trainer: PairTrainer, vectors: Array, losses: list[float]) -> None:
        self.losses_ = losses
        self.vectors_, self.contexts_ = vectors, trainer.rows(1)[:, : self.dim].copy()
        self.counts_ = corpus.counts
        self._name(corpus.vocabulary)

    def _name(self, vocabulary: list[str]) -> None:
        self.vocabulary_ = vocabulary
        self.index_ = {word: k for k, word in enumerate(vocabulary)}

    # --------------------------------------------------------------------------------------------------- questions

    def _fitted(self) -> None:
        if not hasattr(self, "vectors_"):
            raise StateError(f"this {type(self).__name__} has no vectors yet; call fit, or make one by load")

    def vector(self, word: str) -> Array:
        """The vector of a word, shape (dim,): a view of its row of `vectors_`. A KeyError if it is not in the vocabulary."""
        self._fitted()
        if word not in self.index_:
            known = self.vocabulary_ if isinstance(word, str) and len(self.vocabulary_) <= 1 << 16 else ()
            raise KeyError(f"{word!r} is not in the vocabulary.{did_you_mean(word, known) if known else ''}")
        found: Array = self.vectors_[self.index_[word]]
        return found

    def most_similar(self, word_or_vector: Any, n: int = 10) -> list[tuple[str, float]]:
        """The `n` words of the most similar vectors, with the cosine of the angle between them, the most similar first.

        Parameters
        ----------
        word_or_vector : str or array of shape (dim,)
            A word, which is not among what is returned, or any vector.
        n : int, default 10
        """
        if isinstance(word_or_vector, str):
            return self._nearest(self.vector(word_or_vector), n, [word_or_vector])
        self._fitted()
        vector = checks.real_array("word_or_vector", word_or_vector)
        if vector.shape != self.vectors_.shape[1:]:
            raise ShapeError(f"word_or_vector has shape {vector.shape}, but the vectors have {self.vectors_.shape[1:]}")
        return self._nearest(vector, n, [])

    def analogy(self, a: str, b: str, c: str, n: int = 10) -> list[tuple[str, float]]:
        """The `n` words that are to `c` as `b` is to `a`: those most similar to b - a + c, all of length 1 (Mikolov et al.
        2013). The three are not among them."""
        one, other, third = (self._unit(self.vector(word)) for word in (a, b, c))
        return self._nearest(other - one + third, n, [a, b, c])

    @staticmethod
    def _unit(vector: Array) -> Array:
        length = np.sqrt(np.vdot(vector, vector))
        return vector / length if length > 0 else vector

    def _nearest(self, vector: Array, n: int, without: Sequence[str]) -> list[tuple[str, float]]:
        n = checks.integer(0)("n", n)
        lengths = np.sqrt(np.einsum("ij,ij->i", self.vectors_, self.vectors_))
        near = self.vectors_ @ self._unit(vector.astype(np.float64)).astype(np.float32)
        near /= np.where(lengths > 0, lengths, 1)
        left_out = {self.index_[word] for word in without}
        near[list(left_out)] = -np.inf
        n = min(n, len(near) - len(left_out))
        if n == 0:
            return []
        best = np.argpartition(-near, n - 1)[:n]
        best = best[np.argsort(-near[best], kind="stable")]
        return [(self.vocabulary_[k], float(near[k])) for k in best.tolist()]

    # ------------------------------------------------------------------------------------------------------- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the vectors as word2vec's text: a line with their number and length, then a line for each word.

        gensim reads it (``KeyedVectors.load_word2vec_format``). The numbers are the shortest that mean the same float32. The file
        appears whole or not at all.
        """
        self._fitted()
        target = checks.output_file("path", path)
        for word in self.vocabulary_:
            if not word or any(c.isspace() or "\ud800" <= c <= "\udfff" for c in word):
                raise CheckpointError(
                    f"the word {word!r} cannot stand in word2vec's text: it is empty, or has a blank or half a character"
                )
        with replacing(target) as file:
            file.write(f"{self.vectors_.shape[0]} {self.vectors_.shape[1]}\n".encode())
            for word, vector in zip(self.vocabulary_, self.vectors_, strict=True):
                file.write(f"{word} {' '.join(map(str, vector))}\n".encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """A model of the vectors in a file of word2vec's text form. It answers questions; there are no counts and losses."""
        # Bytes of another encoding are let through: the error comes with the number of the line.
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            try:
                n, dim = map(int, file.readline().split())
                if not 0 <= n < 1 << 62 or dim < 1:
                    raise ValueError
            except ValueError:
                raise CheckpointError(f"{path} does not begin with the number and the length of its vectors") from None
            names, rows = [], []
            for number, line in enumerate(itertools.islice(file, n), 2):
                word, *values = line.rstrip().split(" ")
                try:
                    row = np.array(values, np.float32)
                except ValueError:
                    row = np.empty(0, np.float32)
                if len(row) != dim:
                    raise CheckpointError(f"{path}, line {number}: expected a word and {dim} numbers, got {line!r:.80}")
                if not word.isprintable() and any("\udc80" <= c <= "\udcff" for c in word):
                    raise CheckpointError(f"{path}, line {number}: {word!r:.80} is not UTF-8")
                names.append(word)
                rows.append(row)
        if len(names) != n or len(set(names)) != n:
            raise CheckpointError(f"{path} has {len(set(names))} different words, and should have {n}")
        model = cls()
        model.dim = dim
        model.vectors_ = np.array(rows, np.float32).reshape(n, dim)
        model.counts_, model.losses_ = None, []
        model._name(names)
        return model


class SkipGram(_Embedding):
    r"""Vectors of words by skip-gram with negative sampling (Mikolov et al. 2013, word2vec).

    For each word of the text with context vector v, each word near it, with vector u, and `negative` words drawn at random,
    with context vectors v_q, minimizes

    .. math::
        \log(1 + e^{-u \cdot v}) + \sum_q \log(1 + e^{u \cdot v_q})

    Parameters
    ----------
    dim : int, default 100
        Length of the vectors.
    window : int, default 5
        Neighbours are up to so many words away, to either side; for each word of the text a reach from 1 to `window` is
        drawn.
    negative : int, default 5
        Words drawn for each pair, by their count to the power 3/4. One that is the neighbour itself is left out.
    sample : float, default 1e-3
        Words of a larger frequency f than this are left out of the text at random, so that ``sqrt(sample / f) + sample / f``
        remain. 0: none.
    min_count : int, default 5
        Words that come less often are left out of the text.
    optimizer : str, default "sgd"
        An optimizer's name, such as "adagrad" or "adam". Rows that a pair does not have stand still (lazy).
    lr : float, callable or None, default None
        A number falls linearly to 1/10000 of it over the training, as in word2vec. A callable of the step, such as one of
        `fastopt.schedules`, is taken as it is; steps are places of the text, its words and ends of sentences, or batches. None:
        0.025 with SGD, which then is word2vec; the optimizer's own default else.
    epochs : int, default 5
    batch_size : int, default 64
        Words of the text a batch, for ``mode="minibatch"``. The gradient of a row is the sum over the batch.
    mode : {"hogwild", "sequential", "minibatch"}, default "hogwild"
        Lock-free threads (Niu et al. 2011); pair after pair, on one thread, with the same bits on every machine; batches, with
        the same bits for any number of threads.
    n_jobs : int or None, default None
        Threads; None: 1, -1: as many as fastopt uses. With one, "hogwild" is "sequential".
    random_state : None, int or numpy.random.Generator, default None
    verbose : bool or int, default False
        Print the loss of each epoch.
    progress : bool, default False
        A bar for each epoch (tqdm).

    Attributes
    ----------
    vectors_ : float32 array of shape (n_words, dim)
        The u.
    contexts_ : float32 array of shape (n_words, dim)
        The v. Only after `fit`.
    vocabulary_ : list of str
        The words, the most frequent first.
    index_ : dict
        The row of each word.
    counts_ : int64 array of shape (n_words,)
        How often each word comes.
    losses_ : list of float
        The mean loss of a pair, positive and negatives together, in each epoch, each taken before its step. A large rate follows
        the last sentences, which lowers the loss of those beside them: so it may rise a little as the rate falls.

    Notes
    -----
    As in word2vec and gensim the gradient of u is summed over a pair and its negatives, and applied once; the context vectors
    are updated one after the other, here with all derivatives taken before. Vectors begin between -1/dim and 1/dim as in gensim
    (word2vec: half of it), context vectors at 0. What is drawn depends on the seed, the epoch and the place in the text alone.
    gensim cuts sentences after 10000 words, word2vec after 1000; here they stay whole.
    """

    def __init__(
        self,
        dim: int = 100,
        *,
        window: int = 5,
        negative: int = 5,
        sample: float = 1e-3,
        min_count: int = 5,
        optimizer: str = "sgd",
        lr: Any = None,
        epochs: int = 5,
        batch_size: int = 64,
        mode: str = "hogwild",
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: Any = False,
        progress: bool = False,
    ) -> None:
        self.dim, self.window, self.negative, self.sample, self.min_count = dim, window, negative, sample, min_count
        self.optimizer, self.lr, self.epochs, self.batch_size, self.mode = optimizer, lr, epochs, batch_size, mode
        self.n_jobs, self.random_state, self.verbose, self.progress = n_jobs, random_state, verbose, progress

    def _check_parameters(self) -> None:
        super()._check_parameters()
        checks.integer(1, 1000)("negative", self.negative)
        checks.non_negative("sample", self.sample)

    def fit(self, sentences: Any) -> Self:
        """Learn the vectors.

        Parameters
        ----------
        sentences : iterable of lists of str, or path
            Sentences as lists of words; gone through once. Or the path of a text file (UTF-8; .gz is decompressed), whose
            lines are sentences: in lower case, words are runs of letters and apostrophes.

        Returns
        -------
        self
        """
        corpus, draw = self._begin(sentences)
        n_words = len(corpus.vocabulary)
        size = self.batch_size if self.mode == "minibatch" else 0
        falls_over = self.epochs * -(-len(corpus.words) // max(size, 1))
        cls, options = self._options({"sgd": {"lr": 0.025}}, falls_over)
        u = (2 * draw.random((n_words, self.dim), np.float32) - 1) / np.float32(self.dim)
        backend = choose_backend("auto")
        trainer = PairTrainer(u, np.zeros_like(u), cls, options, "log_loss", 1 + self.negative, (-1, -1), backend)
        keep = kept_share(corpus.counts, self.sample)
        alias = alias_table(power(corpus.counts.astype(np.float64), 0.75))
        seed = int(draw.integers(2**63))
        losses: list[float] = []
        for epoch in range(self.epochs):
            text = Text(corpus.words, keep, *alias, self.window, epoch, seed)
            losses.append(self._train(trainer, text, size, "word", epoch))
        self._keep(corpus, trainer, trainer.rows(0).copy(), losses)
        return self


class GloVe(_Embedding):
    r"""Vectors of words of how often they stand near each other (Pennington, Socher and Manning 2014).

    With :math:`X_{ij}` the sum of 1 / distance over the places where word j is near word i, minimizes

    .. math::
        \tfrac12 \sum_{X_{ij} > 0} \min(1, (X_{ij} / x_{max})^\alpha) (u_i \cdot v_j + b_i + c_j - \log X_{ij})^2

    Parameters
    ----------
    dim : int, default 50
        Length of the vectors.
    window : int, default 10
        Words up to so many places away in a sentence are near.
    x_max : float, default 100
    alpha : float in (0, 1], default 0.75
    symmetric : bool, default True
        Whether both sides are near; else what comes before only.
    min_count : int, default 5
        Words that come less often are left out of the text.
    optimizer : str, default "adagrad"
        An optimizer's name. Adagrad's sums of squares begin at 1, as in the authors' program.
    lr : float, callable or None, default 0.05
        A callable of the step, such as one of `fastopt.schedules`: steps are pairs, or batches. None: the optimizer's own default.
    epochs : int, default 25
    batch_size : int, default 64
        Pairs a batch, for ``mode="minibatch"``. The gradient of a row is the sum over the batch.
    mode : {"hogwild", "sequential", "minibatch"}, default "hogwild"
        As in `SkipGram`.
    n_jobs : int or None, default None
        Threads; None: 1, -1: as many as fastopt uses. With one, "hogwild" is "sequential".
    random_state : None, int or numpy.random.Generator, default None
    verbose : bool or int, default False
        Print the loss of each epoch.
    progress : bool, default False
        A bar for each epoch (tqdm).

    Attributes
    ----------
    vectors_ : float32 array of shape (n_words, dim)
        u + v.
    contexts_ : float32 array of shape (n_words, dim)
        The v. Only after `fit`.
    vocabulary_ : list of str
        The words, the most frequent first.
    index_ : dict
        The row of each word.
    counts_ : int64 array of shape (n_words,)
        How often each word comes.
    losses_ : list of float
        The mean over the pairs with X > 0 in each epoch, each taken before its step.

    Notes
    -----
    The authors' program reads the pairs in one shuffled order again and again, and clips gradients to 100; here they are
    shuffled for each epoch, and not clipped. The whole matrix of co-occurrences is held in memory: 24 bytes for each pair.
    """

    def __init__(
        self,
        dim: int = 50,
        *,
        window: int = 10,
        x_max: float = 100,
        alpha: float = 0.75,
        symmetric: bool = True,
        min_count: int = 5,
        optimizer: str = "adagrad",
        lr: Any = 0.05,
        epochs: int = 25,
        batch_size: int = 64,
        mode: str = "hogwild",
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: Any = False,
        progress: bool = False,
    ) -> None:
        self.dim, self.window, self.x_max, self.alpha, self.symmetric = dim, window, x_max, alpha, symmetric
        self.min_count, self.optimizer, self.lr, self.epochs, self.batch_size = (
            min_count,
            optimizer,
            lr,
            epochs,
            batch_size,
        )
        self.mode, self.n_jobs, self.random_state, self.verbose, self.progress = (
            mode,
            n_jobs,
            random_state,
            verbose,
            progress,
        )

    def _check_parameters(self) -> None:
        super()._check_parameters()
        checks.number(0.0, closed_low=False)("x_max", self.x_max)
        checks.number(0.0, 1.0, closed_low=False)("alpha", self.alpha)
        checks.flag("symmetric", self.symmetric)

    def fit(self, sentences: Any) -> Self:
        """Learn the vectors.

        Parameters
        ----------
        sentences : iterable of lists of str, or path
            As in `SkipGram.fit`.

        Returns
        -------
        self
        """
        corpus, draw = self._begin(sentences)
        n_words = len(corpus.vocabulary)
        cls, options = self._options({"adagrad": {"initial_accumulator_value": 1.0}}, 0)
        rows, columns, found = cooccurrences(corpus.words, n_words, self.window, self.symmetric)
        weights = np.minimum(power(found / float(self.x_max), float(self.alpha)), 1.0)
        # The biases are columns of the tables, and meet a column of ones in the other.
        width = self.dim + 2
        u, v = ((draw.random((2, n_words, width), np.float32) - np.float32(0.5)) / np.float32(self.dim)).astype(
            np.float32
        )
        u[:, -1] = v[:, -2] = 1
        fixed = (width - 1, width - 2)
        trainer = PairTrainer(u, v, cls, options, "squared_error", 1, fixed, choose_backend("auto"))
        y, visits = log(found), np.arange(len(found), dtype=np.int32)
        size = self.batch_size if self.mode == "minibatch" else 0
        losses: list[float] = []
        for epoch in range(self.epochs):
            order = new_order(visits, draw)
            pairs = Pairs(rows, columns, y, weights, order)
            losses.append(self._train(trainer, pairs, size, "pair", epoch))
        self._keep(corpus, trainer, trainer.rows(0)[:, : self.dim] + trainer.rows(1)[:, : self.dim], losses)
        return self
