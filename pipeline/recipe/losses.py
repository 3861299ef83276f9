"""The tables of a recipe that say what a student is asked to match."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from pipeline.recipe.schema import Positive, Table

Weight = Annotated[float, Field(ge=0)]


class SoftTargets(Table):
    """Hinton's term; `tail` says what becomes of the classes that were left out."""

    kind: Literal["soft_targets"]
    weight: Weight
    temperature: Annotated[float, Field(gt=0)] = 1.0
    tail: Literal["bucket", "low_rank", "sampled", "renormalise", "uniform", "none"] | None = None
    divergence: Literal["forward_kl", "reverse_kl", "jensen_shannon"] = "forward_kl"
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    weigh_by: Literal["confidence", "entropy", "pseudo_label"] | None = None


class HardLabels(Table):
    """Cross-entropy with the labels."""

    kind: Literal["hard_labels"]
    weight: Weight


class PseudoLabels(Table):
    """Cross-entropy with the pseudo-labels of training.sources, each as much as it weighs."""

    kind: Literal["pseudo_labels"]
    weight: Weight


class OfFeatures(Table):
    """What every loss of features shares: the teacher's, by name, and a module of the student."""

    weight: Weight
    feature: str
    module: str


class Cosine(OfFeatures):
    """The angle between a feature of the teacher and the student's, projected if asked for."""

    kind: Literal["cosine"]
    projection: bool = False


class Hint(OfFeatures):
    """FitNets' mean squared difference, through a learned projection of the student's feature.

    With `first_steps` the run has two phases: for so many steps nothing but hints is trained, up to
    the student's modules; then the hints and their projections are dropped.
    """

    kind: Literal["hint"]
    projection: bool = True
    first_steps: Positive | None = None


class AttentionTransfer(OfFeatures):
    """The difference of two attention maps, as the authors' code or their paper computes it."""

    kind: Literal["attention_transfer"]
    exponent: Annotated[float, Field(gt=0)] = 2.0
    convention: Literal["code", "paper"] = "code"


class RelationalDistance(OfFeatures):
    """The difference of the distances within a batch, each by its own mean."""

    kind: Literal["relational_distance"]


class RelationalAngle(OfFeatures):
    """The difference of the angles of all triples within a batch."""

    kind: Literal["relational_angle"]


class Similarity(OfFeatures):
    """The difference of how similar the samples of a batch are to each other."""

    kind: Literal["similarity"]


FeatureLoss = Cosine | Hint | AttentionTransfer | RelationalDistance | RelationalAngle | Similarity
Loss = Annotated[SoftTargets | HardLabels | PseudoLabels | FeatureLoss, Field(discriminator="kind")]

# The kinds that compare with what a teacher said.
FROM_CACHE = [
    get_args(table.model_fields["kind"].annotation)[0]
    for table in get_args(get_args(Loss)[0])
    if table not in (HardLabels, PseudoLabels)
]
