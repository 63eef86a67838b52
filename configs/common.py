"""What every experiment has: the fields, their meaning, and defaults that change nothing.

One config file is one experiment. Any field is changed on the command line, e.g.
`--config.optimizer.learning_rate=0.003`. An unknown field is an error.
"""

from __future__ import annotations

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    """Every field but the network's, each at a default that changes nothing."""
    config = ConfigDict()
    config.description = ''
    config.seed = 0
    config.model = ConfigDict()  # name and fields of a network, such as `unet3d` below
    config.compute_dtype = 'auto'  # float32, bfloat16; auto: bfloat16 on accelerators
    config.epochs = 1
    config.batch_size = 1  # patches a step, over all devices
    config.accumulate = 1  # parts in which a batch is computed, one after the other
    config.frozen = ''  # regular expressions, comma-separated: parameters that stay as they are

    config.data = data = ConfigDict()
    data.train = ''  # folder of tomogram/label pairs (see `python -m launch.check`)
    data.labels = ''  # folder of the labels, where they are not beside the tomograms
    data.validation = ''  # folder of pairs to validate on; empty: a part of the training data
    data.validation_labels = ''
    data.validation_fraction = 0.2
    data.folds = 0  # cross-validation: parts of the training data, by seed; 0: the fraction
    data.fold = 0  # 0 … folds − 1: which of them is held out
    data.unlabelled = ''  # folder of tomograms without labels, for networks that give the image
    data.unlabelled_slices = 0  # most of their slices drawn in an epoch; 0: all
    # For networks of slices: what slices without any label are, background or unlabelled; how many
    # of the labelled ones are trained on (0: all but those validated on), evenly spread or at
    # random; and pixels of a file (1, y, x) that are one of the network's.
    data.empty_slices = 'background'
    data.labelled_slices = 0
    data.labelled_choice = 'even'
    data.binning = (1, 1, 1)
    data.dataset = ''  # data set of the images, in HDF5 and OME-Zarr
    data.label_dataset = ''  # data set of the labels, likewise
    data.classes = ''  # 'cell=1,bead=2+5', 'background=rest,wall=0+32'; empty: all that occur
    # In place of `classes`, groups of the names that volumes give to their label values, which need
    # not be the same: 'nucleus=nucleus+euchromatin,lipid=lipid' (see `python -m launch.library`).
    data.task = ''
    data.task_missing = 'skip'  # cells that lack a class; refuse
    data.task_rest = 'background'  # what materials of no class are; ignored, refuse
    data.task_voxel_sizes = 'equal'  # any; where there is a working_shape, they need not be
    data.ignore_value = config_dict.placeholder(int)  # label value of unlabelled voxels
    data.working_shape = config_dict.placeholder(tuple)  # (z, y, x) to resize volumes to
    data.intensity = 'standard'  # see sxt_jax/data/intensity.py
    data.clip = False  # cut normalised gray values to 0 … 1
    data.patch = (64, 64, 64)
    data.sampling = 'random'  # strided; each: one random patch of every volume an epoch
    data.stride = (32, 32, 32)  # of 'strided'
    data.foreground_probability = 0.0  # not of 'strided': share of patches centred on a class
    data.foreground_share = 0.0  # of 'random': of a batch's patches, that must hold at least
    data.min_foreground = 0  # that many voxels of a class
    data.exchange_axes = 0.0  # not of 'strided': share of patches of which two axes are exchanged
    data.repeats = 1  # of 'each': how often every volume, or labelled slice, is drawn in an epoch
    data.steps_per_epoch = 0  # 0: as many as show all voxels (each: all volumes) once

    config.augmentation = augmentation = ConfigDict()  # see sxt_jax/data/augment.py
    augmentation.flip_axes = ''
    augmentation.rotate_90 = False
    augmentation.swap_axes = False
    augmentation.scale = 0.0
    augmentation.shift = 0.0
    augmentation.noise = 0.0
    augmentation.rotate_degrees = 0.0
    augmentation.elastic_voxels = 0.0
    augmentation.elastic_points = 4

    config.distortion = distortion = ConfigDict()  # see sxt_jax/data/distort.py
    distortion.probability = 0.0  # of each kind; 0: none
    distortion.anisotropy = 2  # slices repeated in place of their neighbours
    distortion.stretch = 2
    distortion.shrink = 2
    distortion.scale_low = 0.6
    distortion.scale_high = 1.2
    distortion.noise = 0.1
    distortion.shuffle_windows = 3
    distortion.shuffle_side = 25
    distortion.inpaint_windows = 3
    distortion.inpaint_side = 15
    distortion.decline = True

    config.flows = flows = ConfigDict()  # learning cells one by one, of labels that are their ids
    flows.kind = ''  # heat, tanh, span: foreground and flows are learnt; empty: classes
    flows.foreground_weight = 1.0  # of its loss
    flows.flow_weight = 1.0

    config.loss = loss = ConfigDict()  # weights of the terms, where classes are learnt
    loss.cross_entropy = 1.0
    loss.dice = 0.0
    loss.dice_squared = 0.0  # squared denominators, over the batch, of the foreground classes
    config.class_balance = False  # weigh classes by 1 / frequency in the cross-entropy

    config.cells = cells = ConfigDict()  # where mask and boundary of cells are learnt, of their ids
    cells.boundary_px = 2  # how far the boundary reaches on either side of where ids change

    config.mask = mask = ConfigDict()  # where one class and the image are learnt (double_decoder)
    mask.label_weight = 0.99  # in the loss of labelled slices; the rest is the image's
    mask.ssim_weight = 0.5  # in the loss of unlabelled slices; the rest is the Huber loss's
    mask.huber_delta = 0.1  # of all Huber losses

    config.optimizer = optimizer = ConfigDict()
    optimizer.name = 'adam'  # sgd, adam, adamw, radam
    optimizer.learning_rate = 1e-3
    optimizer.schedule = 'constant'  # inverse_time, cosine
    optimizer.decay = 0.0  # of inverse_time, a step
    optimizer.warmup_steps = 0
    optimizer.epsilon = 1e-8  # of the others: keeps their division steady
    optimizer.momentum = 0.9  # of sgd
    optimizer.nesterov = False  # of sgd
    optimizer.weight_decay = 0.0  # of adamw
    optimizer.clip_norm = 0.0  # largest norm of the gradient; 0: not clipped

    config.initial = initial = ConfigDict()  # fine-tuning
    initial.checkpoint = ''  # workdir of another run whose weights to start from
    initial.scope = 'all'  # 'encoder', or 'matching': every weight of the same name and shape

    config.inference = inference = ConfigDict()
    inference.tile = (64, 64, 64)
    inference.overlap = (32, 32, 32)
    inference.blend = 'cosine'  # constant, distance
    inference.batch_size = config_dict.placeholder(int)  # tiles at once; found automatically

    config.checkpoint = checkpoint = ConfigDict()
    checkpoint.evaluate_every = 1  # epochs; a checkpoint is saved at each validation
    checkpoint.every_steps = 0  # further checkpoints; 0: none
    checkpoint.keep = 2  # newest checkpoints kept, besides the best
    checkpoint.patience = 0  # validations without a better one after which to stop; 0: never
    checkpoint.plateau = 'dice'  # by which one is better; of masks also 'validation/loss'
    return config


# Fields of `data` that stages of a cascade have of their own; the volumes are the same for all.
_STAGE_DATA = (
    'binning', 'working_shape', 'intensity', 'clip', 'patch', 'sampling', 'stride',
    'foreground_probability', 'foreground_share', 'min_foreground', 'exchange_axes', 'repeats',
    'steps_per_epoch',
)  # fmt: skip
_STAGE_FIELDS = (
    'model', 'epochs', 'batch_size', 'accumulate', 'frozen', 'data', 'augmentation', 'distortion',
    'loss', 'class_balance', 'optimizer', 'initial', 'inference', 'checkpoint',
)  # fmt: skip


def stages(config: ConfigDict, names: tuple[str, ...]) -> ConfigDict:
    """Stages of a cascade, trained in this order; fields that are None are those of `config`."""
    made = ConfigDict()
    made.order = names
    for name in names:
        made[name] = _unset(ConfigDict({field: config[field] for field in _STAGE_FIELDS}))
        made[name].data = ConfigDict({field: made[name].data[field] for field in _STAGE_DATA})
        made[name].where = 'everywhere'  # surface: patches and tiles where classes meet that the
        made[name].surface_voxels = 4  # stage before has found, and so many voxels around
    return made


def _unset(fields: ConfigDict) -> ConfigDict:
    """The same fields, of the same types, without values."""
    made = ConfigDict()
    for name, value in fields.items():
        is_group = isinstance(value, ConfigDict)
        made[name] = _unset(value) if is_group else config_dict.placeholder(fields.get_type(name))
    return made


def cellpose3d() -> ConfigDict:
    """The fields of `sxt_jax.models.Cellpose3DNet`, as published."""
    model = ConfigDict()
    model.name = 'cellpose3d'
    model.features = 16  # channels of full resolution
    return model


def double_decoder() -> ConfigDict:
    """The fields of `sxt_jax.models.DoubleDecoder`, as published."""
    model = ConfigDict()
    model.name = 'double_decoder'
    model.width = 64  # channels of full resolution, of which all others are multiples
    model.heads = ('image', 'label')  # 'label' alone: supervised training only
    model.norm_momentum = 0.99
    for part, blocks in (('encoder', 1), ('image', 1), ('label', 2)):
        model[f'{part}_filters'] = config_dict.placeholder(tuple)  # None: multiples of the width
        model[f'{part}_kernels'] = config_dict.placeholder(tuple)  # None: all 3
        model[f'{part}_blocks'] = blocks
        model[f'{part}_depth'] = 2
        model[f'{part}_add'] = False
    model.image_skips = False
    model.label_skips = True
    model.neck_filters = config_dict.placeholder(int)  # None: 16 times the width
    model.neck_kernels = (1, 2, 3)
    model.neck_depth = 4
    model.neck_add = False
    return model


def resunet() -> ConfigDict:
    """The fields of `sxt_jax.models.ResUNet`, as published."""
    model = ConfigDict()
    model.name = 'resunet'
    model.heads = 'classes'  # cells: mask and boundary
    model.width = 64  # channels of full resolution
    model.up = 'nearest'  # transposed
    model.norm_momentum = 0.99  # of batch norm: share of the running statistics a step keeps
    return model


def setr() -> ConfigDict:
    """The fields of `sxt_jax.models.SETR`: ViT-L/16 with a decoder by progressive up-sampling."""
    model = ConfigDict()
    model.name = 'setr'
    model.heads = 'classes'  # cells: mask and boundary
    model.grid = (32, 32)  # (y, x) sides of the patches / 16
    model.hidden = 1024  # channels of a token
    model.n_layers = 24
    model.n_heads = 16
    model.mlp_dim = 4096
    model.decoder = 'pup'  # naive
    model.decoder_width = 256
    model.dropout = 0.1
    model.norm_momentum = 0.9
    return model


def transunet() -> ConfigDict:
    """The fields of `sxt_jax.models.TransUNet`: R50-ViT-B/16."""
    model = ConfigDict()
    model.name = 'transunet'
    model.heads = 'classes'  # cells: mask and boundary
    model.grid = (32, 32)  # (y, x) sides of the patches / 16
    model.stem_width = 64
    model.stem_blocks = (3, 4, 9)
    model.groups = 32
    model.hidden = 768  # channels of a token
    model.n_layers = 12
    model.n_heads = 12
    model.mlp_dim = 3072
    model.decoder_filters = (512, 256, 128, 64, 16)
    model.dropout = 0.1
    model.norm_momentum = 0.9
    return model


def unet3d() -> ConfigDict:
    """The fields of `sxt_jax.models.UNet3D`, as published; its labels are those of the data."""
    model = ConfigDict()
    model.name = 'unet3d'
    model.filters = (32, 64, 128, 256, 512)  # channels of each level
    model.residual = False
    model.norm = 'batch'  # instance, none
    model.up = 'nearest'  # transposed
    model.dropout = 0.0  # share of the channels dropped after each convolution
    model.pool_sizes = config_dict.placeholder(tuple)  # (z, y, x) between levels; None: all 2
    model.norm_momentum = 0.99  # of batch norm: share of the running statistics a step keeps
    return model
