"""Published models in pairs on the same questions, and what the pairs say of the paper's claims, by a rule written before this code.

The rule, stated on `STATED` and committed before any code here computed a pair. It is descriptive and **not blind**: seven of the
pairs, with their counts, had been read before. So that nothing could be chosen to suit them, margin, level and the words of the
verdicts are those of the miniature (`claims`).

* A **pair** is a published run of a base and a published run of a model made from it, on one whole examination. Both run with
  thinking or both without, and the base with the same effort or more: less would credit the adaptation with the base's shorter thought.
  Every run that fits is paired; none is chosen.
* The **effect** is the share right of the adapted model minus that of the base, over all questions of the examination. An answer that
  is missing or names no choice is wrong. Its 95 % interval is that of the miniature over questions (`statistics.mean_interval`).
* The **test** is McNemar's, exact, with Holm's correction over all pairs of the page, whatever their claim.
* **Margin**: 5 points. *supported*: the interval lies above zero, the effect reaches the margin, and Holm's p is below 0.01. *not
  supported*: the whole interval lies below the margin. *undecided at this size*: anything else.
* **Equivalence** is a question of its own, because no difference found is not a difference shown to be small: two one-sided t tests
  on the paired differences against minus and plus the margin, at 5 %, each pair for itself. Where both reject, the difference is
  *shown to be small*.
* Only a pair whose runs share decoding, effort, quantisation, serving and vision, as far as their source states them, **decides**.
  The others are shown beside it.
* **Claim 1**: the deciding pairs whose adaptation is a medical LoRA, combined as in the miniature. Continued pretraining and
  fine-tuning on medical texts are shown beside them. No pair measures *partially*.
* **Claim 2** speaks of the effect of tuning at two sizes of one family. Where no adaptation has been published at two sizes of one
  family, it is *not measured*. What size itself buys stands beside it, paired step by step along the ladder.
* **Claim 3**: the effect is the base's lead over its sibling trained further on Japanese, base minus sibling. *supported* means that
  the sibling is the weaker start, by this rule. It compares levels, since none of the siblings was tuned on medicine afterwards.
* **Claim 4**: Accuracy minus Exact match (scorer `journal`) of the published texts on the text-only five-choice questions, one mean
  per question over the runs with texts; margin and words as above, without a test.

A verdict speaks of these runs, one of each, on one examination. It says nothing of another seed, prompt or decoding.
"""

STATED = "2026-11-24"
EQUIVALENCE_LEVEL = 0.05
