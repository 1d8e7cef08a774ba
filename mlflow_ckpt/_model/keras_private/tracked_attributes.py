"""Which attributes of models, layers and optimizers Keras manages, and which are the user's.

- `get_attr_skipset` of `saving_lib`, and names of attributes of `Trainer`, `Functional` and layers
  tell Keras's attributes from the user's. Fallback: some of Keras's are compared as well.
- `_obj_type` tells Keras's objects, and functional models. Fallback: an object counts as one of the
  user's own, and a model's layers have no order.
- `_layers`, `_trainable_variables`, `_non_trainable_variables`, `_seed_generators` and `_variables`
  lead to what is no attribute. Fallback: it is not looked at, and rebuilt layers keep the order of
  their variables.
- `Layer._flatten_layers` finds frozen layers. Fallback: as Keras's configuration has them.
- `_fn_kwargs` of losses and metrics and `_flash_attention` of layers are arguments that some of
  their configurations lack (`Huber`, `CosineSimilarity`). Fallback: they are not compared.
- The prefix `_self_` marks attributes of the wrappers in which TensorFlow tracks lists and
  dictionaries. Fallback: they are compared as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import keras

from mlflow_ckpt._model.keras_private import saving_code


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Attributes of `Trainer` and of models that hold no state of the user's.
_TRAINER = _words("""
    _compile_config _compile_loss _compile_metrics _compiled_trainable_state
    _compute_loss_has_training_arg _distribute_strategy _eval_epoch_iterator _initial_epoch
    _jax_state _jax_state_synced _jit_compile _loss_tracker _metrics _run_eagerly compiled history
    jit_compile make_predict_function make_test_function make_train_function predict_function
    run_eagerly steps_per_execution stop_evaluating stop_predicting stop_training test_function
    train_function unrolled_steps_per_execution
""")

_FUNCTIONAL = _words("""
    _functional _inputs _inputs_struct _manual_input_spec _nnx_op_mapping _nodes _nodes_by_depth
    _operations _operations_by_depth _outputs _outputs_struct _tensor_usage_count nnx_operations
    operations output_names
""")

# Of classes that layers inherit from, and of layers themselves, or saved in another way.
_INHERITED = _words("""
    _auto_config _backend_generators _dtype_policy _torch_params _tracker build input_spec quantize
    training _exclude_from_weight_decay _exclude_from_weight_decay_cache
    _exclude_from_weight_decay_pattern lora_enabled lora_rank quantization_config
""")

# On PyTorch, each layer also has the values of its variables in a module of this name.
TORCH_PARAMETERS = "_torch_params"

# Lists in which objects keep what they track, whether or not it is an attribute as well.
_TRACKED = (
    "_layers",
    "_trainable_variables",
    "_non_trainable_variables",
    "_seed_generators",
    "_parameters",
    "_buffers",
    "_modules",
)


def is_tracked(item: Any) -> bool:
    """Whether an object is one of Keras's that keep lists of what is in them."""
    return hasattr(item, "_obj_type") and hasattr(item, "__dict__")


def is_of_wrapper(name: str) -> bool:
    """Whether an attribute is one of TensorFlow's wrapper around a user's list or dictionary."""
    return name.startswith("_self_")


def own_attributes(item: Any) -> frozenset[str]:
    """Return the names of a Keras object's attributes that Keras manages, and no user does."""
    return _managed(item._obj_type(), isinstance(item, keras.Model))


@lru_cache(maxsize=32)
def _managed(kind: str, is_model: bool) -> frozenset[str]:
    managed = set(_INHERITED)
    if hasattr(saving_code.saving_lib, "get_attr_skipset"):
        saving_code.fix_attribute_cache()
        managed |= saving_code.saving_lib.get_attr_skipset(kind)
    if is_model:
        managed |= _TRAINER | _FUNCTIONAL
    return frozenset(managed)


def is_lost_by_configuration(item: Any, name: str) -> bool:
    """Whether an attribute of a Keras object holds arguments that its configuration lacks."""
    if name == "_fn_kwargs":
        return not item.get_config().keys() >= vars(item)[name].keys()
    return name == "_flash_attention"


def has_layers_in_order(item: Any) -> bool:
    """Whether an object is a model whose configuration has the order of its layers."""
    kind = item._obj_type() if hasattr(item, "_obj_type") else None
    return kind in ("Functional", "Sequential")


def tracked_lists(item: Any) -> Iterator[tuple[str, Any]]:
    """Yield the lists in which a Keras object keeps its layers, variables and generators."""
    attributes = vars(item)
    if isinstance(item, keras.optimizers.Optimizer):
        # Its lists of trainable variables are those of the model.
        yield "_variables", attributes.get("_variables", [])
        schedule = attributes.get("_learning_rate")
        if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
            yield "_learning_rate", schedule
        return
    for name in _TRACKED:
        if attributes.get(name):
            yield name, attributes[name]


def order_variables(model: keras.Model, order: Iterable[keras.Variable]) -> None:
    """Give each layer its trainable variables in the order in which these stand among others.

    Keras rebuilds quantized layers with another order, and JAX's training needs the optimizer's.
    """
    place = {id(variable): at for at, variable in enumerate(order)}
    for layer in all_layers(model) or ():
        own = vars(layer).get("_trainable_variables")
        if isinstance(own, list) and all(id(variable) in place for variable in own):
            own.sort(key=lambda variable: place[id(variable)])


def all_layers(model: keras.Model) -> list[Any] | None:
    """Return a model's layers and their sublayers, parents first; None if unknown."""
    flatten = getattr(model, "_flatten_layers", None)
    return None if flatten is None else list(flatten(include_self=True))
