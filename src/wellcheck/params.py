"""The sections of params.yaml as validated models. Defaults live in params.yaml, once; an unknown key or a wrong type is an error.

A stage calls `load(Train)` and gets its own section, nothing else: what it does not declare in dvc.yaml it cannot see.
"""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from wellcheck.errors import InputError

DatasetName = Literal[
    "digits", "mnist", "fashion_mnist", "cifar10", "tiny_imagenet", "tiny_imagenet50", "flower_photos", "folder", "parquet"
]
TriggerName = Literal["none", "watermark", "pixel", "random_patch", "blend", "sinusoid", "warp", "picture"]
PolicyName = Literal[
    "all_to_one", "others_to_one", "all_to_all", "clean_label", "label_consistent", "source_specific", "adaptive", "label_noise"
]
OwnModelName = Literal["alexnet_small", "deep_cnn", "residual_cnn", "resnet18", "resnet20", "two_conv_cnn"]
TORCHVISION = "torchvision/"  # before the name of one of its classifiers
LayerName = Literal["pixels", "feature_map", "penultimate"]
DetectorName = Literal[
    "centroid_tsne", "centroid_penultimate", "knn_disagreement", "spectral_signatures", "activation_clustering", "spectre", "scan",
    "loss_ranking", "mixture", "trigger_inversion", "strip", "agpd", "beatrix",
]  # fmt: skip
AttackName = Literal[
    "fgsm", "max_normed", "pgd_linf", "pgd_l2", "apgd_ce", "apgd_dlr", "square", "ensemble", "feature_matching", "low_frequency",
    "noise_linf", "noise_l2",
]  # fmt: skip
L2_ATTACKS: frozenset[AttackName] = frozenset({"pgd_l2", "noise_l2"})  # epsilon is the length of the whole change
ShiftName = Literal["blur", "brightness", "rotation"]
GoalName = Literal["untargeted", "random_class", "least_likely"]
# What a detector needs stands here so that a mistake is found before anything runs; the registry in detectors/ reads it.
LAYERS_READ: dict[DetectorName, tuple[LayerName, ...]] = {
    "centroid_tsne": ("pixels",),
    "centroid_penultimate": ("penultimate",),
    "knn_disagreement": ("pixels",),
    "spectral_signatures": ("penultimate",),
    "activation_clustering": ("penultimate",),
    "spectre": ("penultimate",),
    "scan": ("penultimate",),
    "mixture": ("pixels", "feature_map", "penultimate"),
}
VERDICT_READS: tuple[LayerName, ...] = ("pixels", "feature_map", "penultimate")
NEED_TRUSTED: frozenset[DetectorName] = frozenset({"strip", "agpd", "beatrix"})


def _known_model(name: str) -> str:
    # torchvision alone knows which names it has, and takes seconds to import: `models.build` asks it.
    if name not in get_args(OwnModelName) and not re.fullmatch(f"{TORCHVISION}[a-z0-9_]+", name):
        listed = ", ".join(f"'{own}'" for own in get_args(OwnModelName))
        expected = f"{listed} or a classifier of torchvision's, such as '{TORCHVISION}resnet50'"
        raise PydanticCustomError("model_name", "Input should be {expected}", {"expected": expected})
    return name


ModelName = Annotated[str, AfterValidator(_known_model)]
Share = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Section(BaseModel):
    """One section of params.yaml."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Device(RootModel[Literal["auto", "cpu", "cuda"]]):
    """Where tensors are computed; `auto` takes CUDA where there is one."""


class Dataset(Section):
    """Which images, and in which form."""

    name: DatasetName
    path: str  # the user's own data: a folder for `folder`, a folder or file for `parquet`; watched by DVC
    size: Annotated[int, Field(ge=4, le=1024)] | None  # pixels a side; null: as the images are
    channels: Literal[1, 3] | None  # null: as the images are


class Split(Section):
    """How the training set is cut."""

    seed: Seed
    stratify: bool  # keep the class mix in every part
    valid: Share | Annotated[int, Field(ge=0)]  # a share or a number of the training samples
    test: Literal["auto"] | Share | Count  # auto: the data set's own test split, or 20 % where it has none
    limit: Annotated[int, Field(ge=10)] | None  # at most so many samples in each part, for quick runs


class Poison(Section):
    """What is planted in the training set."""

    trigger: TriggerName  # none: the data stay as they came (or get label noise)
    policy: PolicyName  # which samples carry it, and which label they get
    rate: Rate  # probability of each sample to be poisoned; of each sample of the target class, where labels stay
    target_label: Annotated[int, Field(ge=0)]
    source_label: Annotated[int, Field(ge=0)] | None  # source_specific: the class whose images the trigger turns
    cover_rate: Rate  # so many carry the trigger and keep their label, as a share of the whole set
    strength: Annotated[float, Field(gt=0, le=100)] | None  # opacity, amplitude or pixels, as the trigger says; null: the paper's
    epsilon: Annotated[float, Field(gt=0, le=1)]  # label_consistent: L∞ size of the perturbation, of pixels in [0, 1]
    picture: Annotated[str, Field(min_length=1)]  # picture: an image file with the trigger; watched by DVC, which needs a path here
    position: Annotated[list[int], Field(min_length=2, max_length=2)]  # picture: row and column; negative: from the far edge
    seed: Seed

    @model_validator(mode="after")
    def _fits_together(self) -> "Poison":
        if self.trigger in ("blend", "picture", "sinusoid") and self.strength is not None and self.strength > 1:
            raise ValueError(f"poison.strength: found {self.strength}, expected at most 1 for {self.trigger}")
        if self.policy == "source_specific" and self.source_label in (None, self.target_label):
            raise ValueError("poison.policy is source_specific, which needs a poison.source_label other than the target")
        if self.policy in ("clean_label", "label_consistent", "label_noise") and self.cover_rate > 0:
            raise ValueError(f"poison.cover_rate: found {self.cover_rate}, expected 0 for {self.policy}, which has no cover samples")
        if self.policy == "label_noise" and self.trigger != "none":
            raise ValueError(f"poison.policy is label_noise, which has no trigger: set poison.trigger to none (found {self.trigger})")
        return self

    @property
    def plants(self) -> bool:
        """Whether anything is changed at all."""
        return self.trigger != "none" or self.policy == "label_noise"


class Train(Section):
    """One training recipe for every variant."""

    model: ModelName
    epochs: Count
    batch_size: Count
    learning_rate: Annotated[float, Field(gt=0)]
    precision: Literal["auto", "float32", "bfloat16"]  # auto: bfloat16 autocast on CUDA, float32 elsewhere
    augment: bool  # random horizontal flips, and shifts by up to an eighth of the side
    schedule: Literal["constant", "one_cycle"]  # one_cycle: the learning rate rises over the first fifth of the steps, then falls to zero
    early_epochs: Annotated[int, Field(ge=0)]  # after so many of the first, each training sample's loss is kept
    snapshots: Annotated[int, Field(ge=0, le=100)]  # so many states of the weights, evenly spread over the epochs, are kept
    seed: Seed

    @classmethod
    def plain(cls, **recipe: Any) -> "Train":
        """A recipe for images as they are, at one learning rate, of which nothing is kept on the way; what is given counts instead."""
        quiet: dict[str, Any] = {"precision": "float32", "augment": False, "schedule": "constant", "early_epochs": 0, "snapshots": 0}
        return cls(**(quiet | recipe))

    def unrecorded(self, **changes: Any) -> "Train":
        """The same recipe, with these changes, for a model that is only asked: nothing is kept on the way."""
        return self.model_copy(update={"early_epochs": 0, "snapshots": 0} | changes)


class Evaluate(Section):
    """How sure the figures are."""

    confidence: Share  # of every interval


class Embed(Section):
    """What is kept of every training sample."""

    layers: Annotated[list[LayerName], Field(min_length=1)]


class Project(Section):
    """The two-dimensional map."""

    samples: Annotated[int, Field(ge=10)]  # so many training samples, evenly spread over the set
    perplexity: Annotated[float, Field(gt=1)]
    components: Annotated[int, Field(ge=2)] | None  # principal components kept before the neighbour search; null: all of the pixels
    iterations: Count  # after 100 of early exaggeration
    seed: Seed


class Detect(Section):
    """Who looks for the poison."""

    detectors: Annotated[list[DetectorName], Field(min_length=1)]
    trusted: Literal["valid"] | None  # valid: the valid part is vouched for, and detectors that need or can use such samples get it
    seed: Seed

    @model_validator(mode="after")
    def _somebody_vouches(self) -> "Detect":
        needy = sorted(set(self.detectors) & NEED_TRUSTED)
        if needy and self.trusted is None:
            raise ValueError(f"detect.detectors has {', '.join(needy)}, which needs samples vouched for: set detect.trusted: valid")
        return self


class Cleanse(Section):
    """What becomes of the samples that the verdict flags, and the filters to compare that with."""

    action: Literal["remove", "relabel"]  # relabel: to the class that the image shows, where that is another one
    seed: Seed  # of the random filter


class LabelErrors(Section):
    """Whose labels are likely wrong, by models that did not see them."""

    folds: Annotated[int, Field(ge=2)]  # as many models, each trained without its share of the samples
    epochs: Count | None  # of each model; null: as train.epochs
    samples: Annotated[int, Field(ge=10)] | None  # at most so many training samples, evenly spread over the set; null: all
    seed: Seed  # of the folds


class Explain(Section):
    """Which pixels the model's answers hang on."""

    images: Annotated[int, Field(ge=1, le=50)]  # test images answered rightly, the classes in turn
    pairs: Annotated[int, Field(ge=0, le=20)]  # of classes, the most confused ones
    measured: Annotated[int, Field(ge=2, le=10_000)]  # test images, the classes in turn, over which figures are taken
    patch: Count | None  # pixels a side of the square that occlusion blackens; null: a seventh of the image's shorter side
    stride: Count | None  # pixels between two such squares; null: half of one
    steps: Count  # points on the path of integrated gradients
    border: Count | None  # pixels from the edge that count as border; null: a seventh of the image's shorter side
    film: Annotated[int, Field(ge=0, le=500)]  # minibatches, after each of which the untrained model's attributions are taken
    grey: bool  # train and explain the same network on images without colour too
    seed: Seed  # of the choice of images, and of the untrained model


Epsilon = Annotated[float, Field(gt=0, le=1000)]


class Evasion(Section):
    """How the model's inputs are attacked."""

    attacks: Annotated[list[AttackName], Field(min_length=1)]
    goals: Annotated[list[GoalName], Field(min_length=1)]
    epsilons: list[Annotated[float, Field(gt=0, le=1)]]  # L∞, the largest change of a pixel, of pixels in [0, 1]
    epsilons_l2: list[Epsilon]  # L2, the length of the change over all pixels
    steps: Count  # gradients of one way
    restarts: Count  # ways
    queries: Count  # answers, of attacks that use no gradient
    samples: Count | None  # so many test images, as many of each class as there are; null: all
    shown: Annotated[int, Field(ge=0, le=100)]  # so many are kept for the report, as they are and as they become
    seed: Seed

    @model_validator(mode="after")
    def _has_sizes(self) -> "Evasion":
        for values, name in (
            (self.attacks, "attacks"),
            (self.goals, "goals"),
            (self.epsilons, "epsilons"),
            (self.epsilons_l2, "epsilons_l2"),
        ):
            # Sizes are told apart by six digits wherever they name something.
            if len({f"{value:g}" if isinstance(value, float) else value for value in values}) < len(values):
                raise ValueError(f"evasion.{name}: found {values}, expected each once")
        if "untargeted" not in self.goals:
            raise ValueError(f"evasion.goals: found {self.goals}, expected untargeted among them: it is what accuracy under attack means")
        for attack in self.attacks:
            if not self.sizes(attack):
                needed = "epsilons_l2" if attack in L2_ATTACKS else "epsilons"
                raise ValueError(f"evasion.attacks has {attack}, which needs at least one of evasion.{needed}")
        return self

    def sizes(self, attack: AttackName) -> list[float]:
        """The epsilons of an attack, the smallest first."""
        return sorted(self.epsilons_l2 if attack in L2_ATTACKS else self.epsilons)


class Disparity(Section):
    """Whose images are attacked most easily, and missed most often."""

    attack: AttackName
    epsilon: Epsilon  # one of the attack's
    epsilon_targeted: Epsilon  # another one, where a class is aimed at: that takes more
    pairs: Count  # so many pairs of confused classes


class TwoSample(Section):
    """Whether traffic can be told from natural inputs by what the layers make of it."""

    layers: Annotated[list[str], Field(min_length=1)]  # regular expressions, each of which must match a layer's whole name
    pooling: Literal["pooled", "flattened"]
    features: Literal["whitened", "plain"]
    kernel: Literal["summed", "aggregated"]
    attacks: list[AttackName]  # beside PGD that takes all its steps
    epsilons: Annotated[list[Epsilon], Field(min_length=1)]  # of every attack, and the standard deviation of noise
    steps: Count
    shifts: list[ShiftName]
    shares: list[Annotated[float, Field(gt=0, lt=1)]]  # of PGD's images at the largest epsilon in mixed traffic
    images: Annotated[int, Field(ge=20)] | None  # so many test images at most; null: all
    samples: Annotated[int, Field(ge=4)]  # queries in one test, and as many of the reference
    trials: Count
    permutations: Annotated[int, Field(ge=19)]
    level: Share
    listed: Count  # so many of the most suspicious queries
    answer: Annotated[int, Field(ge=0)] | None  # of which inputs are mapped alone; null: the most frequent one
    seed: Seed

    @model_validator(mode="after")
    def _is_consistent(self) -> "TwoSample":
        for values, name in ((self.attacks, "attacks"), (self.epsilons, "epsilons"), (self.shifts, "shifts"), (self.shares, "shares")):
            if len({f"{value:g}" if isinstance(value, float) else value for value in values}) < len(values):
                raise ValueError(f"twosample.{name}: found {values}, expected each once")
        by_length = [name for name in self.attacks if name in L2_ATTACKS]
        if by_length:
            raise ValueError(f"twosample.attacks: found {', '.join(by_length)}, whose epsilon is no change of a pixel")
        if (self.permutations + 1) * self.level < 1:
            raise ValueError(
                f"twosample.permutations: found {self.permutations}, with which no p-value is as small as the level {self.level}"
            )
        return self


class Report(Section):
    """What the report shows."""

    title: str
    experiment: str | None  # the name of a file in experiments/: its article's figures stand beside ours
    images_per_grid: Annotated[int, Field(ge=1, le=100)]
    outliers_per_label: Annotated[int, Field(ge=1, le=100)]
    points_per_map: Annotated[int, Field(ge=100, le=5000)]
    seed: Seed


class Params(Section):
    """The whole of params.yaml."""

    device: Device
    dataset: Dataset
    split: Split
    poison: Poison
    train: Train
    evaluate: Evaluate
    embed: Embed
    project: Project
    detect: Detect
    cleanse: Cleanse
    label_errors: LabelErrors
    explain: Explain
    evasion: Evasion
    disparity: Disparity
    twosample: TwoSample
    report: Report

    @model_validator(mode="after")
    def _readers_find_their_layers(self) -> "Params":
        for detector in self.detect.detectors:
            for layer in LAYERS_READ.get(detector, ()):
                if layer not in self.embed.layers:
                    raise ValueError(f"detect.detectors has {detector}, which needs {layer} in embed.layers")
            if detector == "loss_ranking" and self.train.early_epochs == 0:
                raise ValueError("detect.detectors has loss_ranking, which needs train.early_epochs of at least 1")
        missing = [layer for layer in VERDICT_READS if layer not in self.embed.layers]
        if missing:
            raise ValueError(f"embed.layers lacks {', '.join(missing)}, which the verdict needs")
        return self

    @model_validator(mode="after")
    def _disparity_finds_its_attack(self) -> "Params":
        chosen = self.disparity
        if chosen.attack not in self.evasion.attacks:
            raise ValueError(f"disparity.attack: found {chosen.attack}, expected one of evasion.attacks: {', '.join(self.evasion.attacks)}")
        sizes = self.evasion.sizes(chosen.attack)
        for name, size in (("epsilon", chosen.epsilon), ("epsilon_targeted", chosen.epsilon_targeted)):
            if size not in sizes:
                raise ValueError(f"disparity.{name}: found {size}, expected one of the sizes of {chosen.attack}: {sizes}")
        return self


Loaded = TypeVar("Loaded", bound=BaseModel)


def load(section: type[Loaded], path: Path = Path("params.yaml")) -> Loaded:
    """Validate all of params.yaml and return one section, or all of it for `Params`. Raises InputError that names the parameter."""
    whole = load_all(path)
    if isinstance(whole, section):
        return whole
    (name,) = [name for name, field in Params.model_fields.items() if field.annotation is section]
    own: Loaded = getattr(whole, name)
    return own


def load_all(path: Path = Path("params.yaml")) -> Params:
    """Validate and return all of params.yaml. Raises InputError that names the parameter."""
    return validate(read_yaml(path), str(path))


def validate(values: Any, source: str) -> Params:
    """Check raw values. Raises InputError that names the parameters, what was found and what was expected."""
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise InputError("; ".join(sorted({_explain(source, one) for one in error.errors()}))) from None


def read_yaml(path: Path) -> Any:
    """Read YAML 1.2, as DVC does. Raises InputError that names the file and the line."""
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: not found; run this in the project's folder") from None
    except (YAMLError, ValueError, RecursionError, IsADirectoryError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def _explain(source: str, error: Any) -> str:
    """One sentence for one pydantic error."""
    # Unions add their branch ("float", "constrained-int") to the location; only the keys of the file mean something to a reader.
    keys = [part for part in error["loc"] if part in _known_keys() or error["type"] == "extra_forbidden" or isinstance(part, int)]
    name = ".".join(str(key) for key in keys) or "the file"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(keys[-1]), _known_keys(), n=1)
        return f"{source}: {name}: unknown parameter" + (f", did you mean '{near[0]}'?" if near else "")
    if error["type"] == "value_error":
        return f"{source}: {error['ctx']['error']}"
    if error["type"] == "missing":
        return f"{source}: {name}: missing"
    expected = error["msg"].removeprefix("Input should be ")
    return f"{source}: {name}: found {error['input']!r}, expected {expected}"


def _known_keys() -> set[str]:
    sections = {name: field.annotation for name, field in Params.model_fields.items()}
    return set(sections) | {key for model in sections.values() if isinstance(model, type) for key in model.model_fields}
