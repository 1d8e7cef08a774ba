"""All uses of Keras's and TensorFlow's private names and texts, and the fallbacks if they change.

Nothing outside of this package refers to a private name of Keras's or TensorFlow's, or to the text
of one of their messages. Each module lists what it depends on, entry by entry, with what happens
when it is gone; this is the overview:

- `keras_version`: the versions that are tested. Another one is logged, once, and tried.
- `saving_code`: `saving_lib` and its relatives, which save and load models. Gone: models are saved
  by the public `model.save`, slower, with a warning.
- `capturing`: the traversal of a model by `saving_lib._save_state`. Gone: likewise, and errors do
  not name the object that saves a tensor.
- `compiled_model`: `_compile_config`, `_compile_metrics`, `_symbolic_build`, the lock of a built
  model, and the direction of a metric. Gone: functions that `compile` got are unknown, directions
  are inferred, and an `EpochDataset` cannot be resumed within an epoch.
- `optimizer_internals`: the variables of optimizers, their averages, and what they exclude from
  weight decay. Gone: as Keras builds a new optimizer; dropped averages are reported.
- `tracked_attributes`: names of attributes that Keras manages, and lists of what it tracks. Gone:
  some of Keras's attributes are compared like the user's, and some of what a model holds is missed.
- `torch_parameters`: PyTorch's register of a model's parameters. Gone: it is left as it is, and a
  rebuilt model may add up gradients from step to step.
- `initializer_seeds`: the seeds that initializers draw. Gone: those that a training uses again draw
  other numbers when it is resumed.
- `layer_adapters`: LoRA adapters of layers. Gone: no layer has adapters.
- `callback_internals`: attributes of Keras's callbacks. Gone: their values are None.
- `fit_internals`: local variables of `fit` on the stack. Gone: the other callbacks and the data are
  unknown, which resuming reports.
- `epoch_iterator`: `EpochIterator`, the position of `fit` in its data. Gone: the data are unknown,
  which resuming reports; `fit` ends with an error for an `EpochDataset`.
- `data_adapters`: the adapters through which `fit` reads its data. Gone: likewise unknown.
- `ordered_arrays`: Keras's slicing of arrays on TensorFlow. Gone: likewise unknown.
- `tf_data`: iterators and stages of `tf.data` pipelines. Gone: such data cannot be saved, which
  resuming reports.
- `tf_data_seeds`: the graphs of `tf.data` pipelines. Gone: likewise.
- `global_generators`: the random states of Keras and TensorFlow. Gone: they are reported as not
  restored.
- `trial_thread`: settings of a thread, and modules that Keras draws and warns with. Gone: no
  checkpoint is loaded on trial.
- `messages_of_keras`: texts of errors, warnings and log records. Gone: errors are shown by their
  first line, and warnings are shown.

`PrivateApiError`, in `keras_version`, says that something without a fallback is gone.
"""
