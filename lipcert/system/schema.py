"""The schema of the commands' settings: unknown keys and wrong types are refused before anything starts."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class ExtraDataConfig:
    path: str | None = None
    ratio: float = 1.0


@dataclass
class DataConfig:
    name: str | None = None
    root: str | None = None
    limit_train: int | None = None
    limit_test: int | None = None
    validation: float = 0.0
    draw: str = "stratified"
    crop_padding: int = 0
    on_device: str = "auto"
    transforms: Any = None
    extra: ExtraDataConfig = field(default_factory=ExtraDataConfig)
    image_size: int | None = None
    channels: int | None = None
    partial: bool | None = None
    dataset: Any = None
    test_dataset: Any = None


@dataclass
class TrainDataConfig(DataConfig):
    name: str = MISSING


@dataclass
class ModelConfig:
    """A network; further keys are arguments of its builder."""

    _target_: str | None = None
    builder: str | None = None
    name: str | None = None
    activation: str | None = None
    threshold: float | None = None
    parametrization: str | None = None


@dataclass
class TrainModelConfig(ModelConfig):
    _target_: str | None = "lipcert.nn.build"
    name: str = MISSING
    activation: str | None = "clipped_relu"
    parametrization: str | None = "none"


@dataclass
class BoundConfig:
    name: str = "local"
    iterations: int = 2
    precision: str = "auto"
    clip_input: bool = False
    skip_every: int = 20
    box_gradients: bool = False


@dataclass
class SparsityConfig:
    weight: float = 0.0
    threshold_weight: float = 0.1


@dataclass
class ScheduleConfig:
    epochs: int
    warmup_epochs: float
    ramp_epochs: float
    decay_epoch: float
    initial_lr: float
    final_lr: float
    epsilon_train: float
    decay_step: float = 0.0
    ramp: str = "linear"


@dataclass
class TrainerConfig:
    devices: int = 1
    accelerator: str = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    matmul: str = "highest"
    limit_train_batches: float = 1.0
    limit_val_batches: float = 1.0
    check_val_every_n_epoch: int = 1
    log_every_n_steps: int = 50


@dataclass
class EvaluationConfig:
    bounds: list[str] = field(default_factory=list)
    lanczos_steps: int = 40
    pgd_steps: int = 100
    batch_size: int = 100
    clip_input: bool = False
    lipschitz_images: int = 200
    autoattack_images: int = 0
    checkpoint: str = "last"


@dataclass
class TrainConfig:
    """Everything a training run is made of. Bodies typed `Any` are checked by what they instantiate."""

    data: TrainDataConfig = MISSING
    model: TrainModelConfig = field(default_factory=TrainModelConfig)
    method: Any = MISSING
    bound: BoundConfig = MISSING
    sparsity: SparsityConfig = MISSING
    schedule: ScheduleConfig = MISSING
    optimizer: Any = MISSING
    trainer: TrainerConfig = MISSING
    evaluation: EvaluationConfig = MISSING
    callbacks: Any = MISSING
    logger: Any = MISSING
    seed: int = MISSING
    batch_size: int = MISSING
    epsilon: float = MISSING
    resume: str | None = None
    report: bool = False
    plugins: list[str] = field(default_factory=list)


@dataclass
class BenchmarkConfig:
    """What `lipcert.benchmark` measures."""

    checkpoint: str | None = None
    data_root: str | None = None
    models: list[str] = MISSING
    activations: list[str] = MISSING
    bounds: list[str] = MISSING
    iterations: int = MISSING
    precision: str = MISSING
    batch_size: int = MISSING
    image_shape: list[int] = MISSING
    num_classes: int = MISSING
    epsilon: float = MISSING
    rounds: int = MISSING
    threads: int = MISSING
    growth: list[str] = MISSING
    skip: bool = MISSING
    channels_last: bool = MISSING
    device: str = MISSING
    output: str = MISSING


@dataclass
class NetworkConfig:
    """A trained network and the images to judge it on."""

    checkpoint: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    data_root: str | None = None
    limit: int | None = None
    model: ModelConfig = field(default_factory=ModelConfig)
    activation: str | None = None
    builder: str | None = None
    plugins: list[str] = field(default_factory=list)
    device: str = "auto"
    output: str | None = None


@dataclass
class TrainedNetworkConfig(NetworkConfig):
    """The same with l2 radii: `epsilon` is checked where it is used."""

    epsilon: Any = None


@dataclass
class CertifyConfig(TrainedNetworkConfig):
    """What `lipcert.certify` certifies; `epsilon` is one number or a list."""

    clip_input: bool = False
    stages: list[str] | None = None
    exhaustive: bool = False
    failure_probability: float = MISSING
    batch_size: int | None = None
    memory_gb: float | None = None
    overwrite: bool = False


@dataclass
class SoundnessConfig(TrainedNetworkConfig):
    """What `lipcert.soundness` tries to refute; `epsilon` is one number."""

    norms: int = MISSING
    side: int = MISSING
    attacks: list[str] | None = None
    steps: int = MISSING
    restarts: int = MISSING
    queries: int = MISSING
    batch_size: int = MISSING
    seed: int = MISSING


@dataclass
class MeasureConfig(TrainedNetworkConfig):
    """What `lipcert.measure` measures; `epsilon` is one number."""

    bounds: list[str] = MISSING
    lanczos_steps: int = MISSING
    failure_probability: float = MISSING
    reach: float = MISSING
    points: int = MISSING
    rounds: int = MISSING
    pgd_steps: int = MISSING
    restarts: int = MISSING
    convergence_images: int = MISSING
    tolerance: float = MISSING
    iterations: int = MISSING
    thumbnails: int = MISSING
    batch_size: int | None = None
    memory_gb: float | None = None
    seed: int = MISSING


@dataclass
class AuditConfig(NetworkConfig):
    """What `lipcert.audit` holds a claimed constant against; `claims`: constants of layers, by name."""

    claimed: float | None = None
    claims: Any = None
    bounds: list[str] = MISSING
    starts: int = MISSING
    steps: int = MISSING
    tolerance: float = MISSING
    failure_probability: float = MISSING
    seed: int = MISSING
