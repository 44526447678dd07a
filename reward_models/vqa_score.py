"""VQAScore: how likely a vision-language model is to answer yes when asked whether a picture shows its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, cast

from diffalign.data.modalities import Media
from reward_models.contract import check_call, check_counts
from reward_models.pretrained import chunks
from reward_models.vision_language import LocalJudge, shown, text

if TYPE_CHECKING:
    from diffalign.data.modalities.image import Image

QUESTION = 'Does this figure show "{}"? Please answer yes or no.'  # Lin et al. 2024
FORMULAS = ("yes", "yes_or_no")


class VqaScore:
    """P("Yes" | picture, question), 0 to 1: Lin et al. 2024, arXiv:2404.01291, by any image-text-to-text model of transformers.

    The softmax is over all words that the model could answer first; of a word that is several tokens the first counts.

    checkpoint    a folder that transformers saved, with processor and chat template, or a hub id (Qwen/Qwen2.5-VL-3B-Instruct)
    question      with {} where the prompt goes
    answers       the words for yes and no, as the model writes them at the beginning of an answer
    formula       yes: P(yes); yes_or_no: P(yes) / (P(yes) + P(no)), for models that would rather say something else
    longest_side  of a picture as shown, in pixels: larger ones are scaled down before the model's own preprocessing, as the released code
                  does not do
    revision, device, dtype, batch  of the checkpoint: see vision_language.LocalJudge
    """

    name = "vqa_score"
    modalities = frozenset({"image"})
    dimensions = ("score",)
    groupwise = False

    def __init__(
        self, checkpoint: str, *, question: str = QUESTION, answers: Sequence[str] = ("Yes", "No"), formula: str = "yes",
        longest_side: int = 1024, revision: str | None = None, device: str = "auto", dtype: str = "auto", batch: int = 1,
    ) -> None:  # fmt: skip
        check_counts(self.name, longest_side=longest_side)
        if formula not in FORMULAS:
            raise ValueError(f"vqa_score got formula = {formula!r}; choose one of: {', '.join(FORMULAS)}")
        if not isinstance(question, str) or question.count("{}") != 1:
            raise ValueError(f"vqa_score got question = {question!r}; it holds {{}} once, where the prompt goes")
        if isinstance(answers, str) or len(answers) != 2:
            raise ValueError(f"vqa_score got answers = {answers!r}; give two words, for yes and for no")
        self.judge = LocalJudge(self.name, checkpoint, revision=revision, device=device, dtype=dtype, batch=batch)
        self.question, self.formula, self.longest_side = question, formula, longest_side
        self.yes, self.no = (self._first_token(answer) for answer in answers)
        if self.yes == self.no:
            raise ValueError(f"vqa_score got answers = {answers!r}, which begin with the same token of {checkpoint!r}; give other words")
        words = sha256("\n".join([question, *answers]).encode()).hexdigest()[:12]
        self.revision = f"{self.judge.revision}/{formula}/{longest_side}/{words}"

    def __call__(self, prompts: Sequence[str], media: Sequence[Media]) -> dict[str, list[float]]:
        """{"score": one float in [0, 1] per picture}."""
        check_call(self, prompts, media)
        found: list[float] = []
        for part in chunks(list(zip(prompts, cast("Sequence[Image]", media), strict=True)), self.judge.batch):
            logs = self.judge.first_tokens([self._asked(prompt, picture) for prompt, picture in part])
            yes, no = logs[:, self.yes], logs[:, self.no]
            found += (yes.exp() if self.formula == "yes" else (yes - no).sigmoid()).tolist()
        return {"score": found}

    def _asked(self, prompt: str, picture: Image) -> list[dict[str, Any]]:
        seen = shown(self.judge, picture, frames=1, longest_side=self.longest_side)
        return [*seen, text(self.question.replace("{}", prompt))]

    def _first_token(self, answer: str) -> int:
        tokenizer = self.judge.processor.tokenizer
        tokens = tokenizer(answer, add_special_tokens=False)["input_ids"]
        if not tokens or tokens[0] == tokenizer.unk_token_id:
            raise ValueError(f"vqa_score got the answer {answer!r}, which the tokenizer does not know; give a word that the model writes")
        return int(tokens[0])
