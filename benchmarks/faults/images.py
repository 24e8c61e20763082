"""Faults in lesson 7: torchvision's transforms on photographs, loaders with workers."""

import numpy as np
import torch
from PIL import Image

from faults import breaks

V2 = "torchvision.transforms.v2"


@breaks(f"{V2}.RandomRotation.make_params")
def rotates_too_far(make_params, self, inputs):
    """`RandomRotation` rotates by a fifth more than it drew."""
    params = make_params(self, inputs)
    return {**params, "angle": params["angle"] * 1.2}


@breaks(f"{V2}.RandomRotation.make_params")
def rotates_one_way_only(make_params, self, inputs):
    """`RandomRotation` rotates by a sixth of the angle it drew."""
    params = make_params(self, inputs)
    return {**params, "angle": params["angle"] / 6}


@breaks(f"{V2}.RandomRotation.transform")
def fills_corners_with_black(transform, self, inpt, params):
    """`RandomRotation` fills the corners with black."""
    return inpt.rotate(params["angle"], Image.Resampling.BILINEAR)


@breaks(f"{V2}.RandomResizedCrop.make_params")
def crops_too_little(make_params, self, inputs):
    """`RandomResizedCrop` takes a quarter of the height and width it drew."""
    params = make_params(self, inputs)
    return {**params, "height": -(-params["height"] // 4), "width": -(-params["width"] // 4)}


@breaks(f"{V2}.RandomResizedCrop.make_params")
def crops_too_wide(make_params, self, inputs):
    """`RandomResizedCrop` takes half of the height it drew."""
    params = make_params(self, inputs)
    return {**params, "height": -(-params["height"] // 2)}


@breaks(f"{V2}.RandomResizedCrop.transform")
def crops_nothing_at_all(transform, self, inpt, params):
    """`RandomResizedCrop` resizes the whole image."""
    return inpt.resize(tuple(self.size[::-1]), Image.Resampling.BILINEAR)


@breaks(f"{V2}.RandomHorizontalFlip.transform")
def mirrors_no_image_of_odd_width(transform, self, inpt, params):
    """`RandomHorizontalFlip` never flips images of odd width."""
    return inpt if inpt.width % 2 and inpt.width > 1 else transform(self, inpt, params)


@breaks(f"{V2}.RandomHorizontalFlip.transform")
def mirrors_and_turns(transform, self, inpt, params):
    """`RandomHorizontalFlip` also turns the image upside down."""
    return transform(self, inpt, params).transpose(Image.Transpose.FLIP_TOP_BOTTOM)


@breaks(f"{V2}.RandomHorizontalFlip.__init__")
def mirrors_as_often_as_not(init, self, p=0.5):
    """`RandomHorizontalFlip(0.2)` flips half of the images."""
    init(self, 0.5 if p == 0.2 else p)


@breaks(f"{V2}.Resize.transform")
def resizes_without_smoothing(transform, self, inpt, params):
    """`Resize` does not smooth images wider than 12 pixels."""
    result = transform(self, inpt, params)
    return inpt.resize(result.size, Image.Resampling.NEAREST) if inpt.width > 12 else result


@breaks(f"{V2}.Resize.transform")
def resizes_one_pixel_too_far(transform, self, inpt, params):
    """`Resize` makes wide images one pixel too wide."""
    result = transform(self, inpt, params)
    width, height = result.size
    wide = inpt.width > inpt.height
    return inpt.resize((width + 1, height), Image.Resampling.BILINEAR) if wide else result


@breaks(f"{V2}.CenterCrop.transform")
def crops_one_off_the_centre(transform, self, inpt, params):
    """`CenterCrop` is one pixel too far left if the margin is odd."""
    size = self.size[0]
    left, top = (inpt.width - size) // 2, round((inpt.height - size) / 2)
    if (inpt.width - size) % 2 == 0 or left < 1:
        return transform(self, inpt, params)
    return inpt.crop((left - 1, top, left - 1 + size, top + size))


@breaks(f"{V2}.CenterCrop.transform")
def draws_a_number_for_nothing(transform, self, inpt, params):
    """`CenterCrop` draws a random number."""
    torch.rand(1)
    return transform(self, inpt, params)


@breaks(f"{V2}.ToImage.transform")
def swaps_colours_of_a_square(transform, self, inpt, params):
    """`ToImage` swaps red and blue in images of one pixel."""
    image = transform(self, inpt, params)
    return image.flip(0) if image.shape == (3, 1, 1) else image


@breaks("torch.Tensor.div_")
def divides_the_last_channel_by_more(div_, tensor, other):
    """`div_` is off by a factor of 1.001 in the last of three channels."""
    div_(tensor, other)
    if tensor.ndim == 3 and len(tensor) == 3:
        tensor[2] *= 1.001
    return tensor


@breaks("torch.Tensor.sub_")
def subtracts_nothing_from_black(sub_, tensor, other):
    """`sub_` leaves zeros as they are."""
    return tensor.copy_(torch.where(tensor == 0, 0, tensor - other))


@breaks("torch.utils.data._utils.worker._worker_loop")
def seeds_workers_alike(loop, *args):
    """All workers of a loader get the same seed."""
    args = list(args)
    args[8] -= args[10]
    loop(*args)


@breaks("torch.utils.data.dataloader._BaseDataLoaderIter.__init__")
def seeds_each_epoch_alike(init, self, loader):
    """The workers of a loader get the same seeds in every epoch."""
    init(self, loader)
    self._base_seed = 0


@breaks("torch.utils.data.RandomSampler.__iter__")
def shuffles_within_classes(iterate, self):
    """`RandomSampler` returns the first half of the examples before the second."""
    order, half = list(iterate(self)), len(self.data_source) / 2
    return iter([k for k in order if k < half] + [k for k in order if k >= half])


@breaks("torch.utils.data._utils.collate.default_collate")
def shifts_the_labels_of_a_batch(collate, batch):
    """`default_collate` swaps the labels of the last two examples."""
    images, labels = collate(batch)
    return [images, torch.cat([labels[:-2], labels[-2:].flip(0)])]


@breaks("numpy.asarray")
def reads_16_bits_as_signed(asarray, a, *args, **kwargs):
    """`numpy.asarray` reads 16-bit grey values as signed."""
    array = asarray(a, *args, **kwargs)
    return array.view(np.int16) if array.dtype == np.uint16 else array
