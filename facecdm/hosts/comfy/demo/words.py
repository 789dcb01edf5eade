"""Find the words of a prompt that the demo model does not know."""

from collections.abc import Callable

import comfy.sd1_clip

from ....demo.clip import END, START, Vocabulary

Report = Callable[[list[str]], None]


class DemoTokenizer(comfy.sd1_clip.SD1Tokenizer):
    """Core's tokenizer, which passes the unknown words of every prompt (an empty list for none) to `report`."""

    vocabulary: Vocabulary | None = None
    report: Report | None = None

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs):
        tokens = super().tokenize_with_weights(text, return_word_ids, **kwargs)
        if self.report and self.vocabulary:
            spelt = getattr(self, self.clip).inv_vocab
            ids = [token[0] for batch in tokens[self.clip_name] for token in batch if isinstance(token[0], int)]
            self.report(unknown_words(ids, spelt, self.vocabulary))
        return tokens


def unknown_words(token_ids: list[int], spelt: dict[int, str], vocabulary: Vocabulary) -> list[str]:
    """Each word with a token that is in no caption.

    spelt  token id → its letters, with </w> at the end of a word
    """
    words: dict[str, None] = {}
    letters, known = "", True
    for token in token_ids:
        if token in (START, END):
            letters, known = "", True
            continue
        letters += spelt[token]
        known = known and bool(vocabulary.rows[token])
        if letters.endswith("</w>"):
            if not known:
                words[letters.removesuffix("</w>")] = None
            letters, known = "", True
    return list(words)
