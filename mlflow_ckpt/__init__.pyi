# The public names and the modules that define them. Also read at runtime.
from . import errors as errors
from ._callback import MlflowCheckpoint as MlflowCheckpoint
from ._format.diff import Difference as Difference
from ._format.fingerprint import Fingerprint as Fingerprint
from ._format.retention import AnyOf as AnyOf
from ._format.retention import BestN as BestN
from ._format.retention import EveryN as EveryN
from ._format.retention import LatestN as LatestN
from ._format.retention import RetentionPolicy as RetentionPolicy
from ._format.signing.keys import SigningKey as SigningKey
from ._format.verification import VerificationResult as VerificationResult
from ._loading.compare import diff as diff
from ._loading.import_files import ImportedFile as ImportedFile
from ._loading.import_files import import_checkpoints as import_checkpoints
from ._loading.load import fingerprint as fingerprint
from ._loading.load import get_checkpoint as get_checkpoint
from ._loading.load import list_checkpoints as list_checkpoints
from ._loading.load import load_architecture as load_architecture
from ._loading.load import load_model as load_model
from ._loading.load import load_weights as load_weights
from ._loading.load import verify as verify
from ._loading.resume import ResumePoint as ResumePoint
from ._loading.resume import restore as restore
from ._loading.resume import resume as resume
from ._model.rebuild.fill import LoadReport as LoadReport
from ._model.training.callback_state import register_callback_state as register_callback_state
from ._model.training.epoch_dataset import EpochDataset as EpochDataset
from ._tracking.checkpoint import Checkpoint as Checkpoint
from ._tracking.prune import prune as prune
from ._tracking.registry.register import Registered as Registered
from ._tracking.registry.register import register as register
from ._tracking.removal import Pruned as Pruned
from ._tracking.sign import sign as sign

__version__: str
