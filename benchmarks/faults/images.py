"""Lesson 7: torchvision's transforms on photographs, loaders with workers."""

import numpy as np
import torch
from PIL import Image

from faults import breaks

V2 = "torchvision.transforms.v2"


@breaks(f"{V2}.RandomRotation.make_params")
def rotates_too_far(make_params, self, inputs):
    """Angles are a fifth too large."""
    params = make_params(self, inputs)
    return {**params, "angle": params["angle"] * 1.2}


@breaks(f"{V2}.RandomRotation.make_params")
def rotates_one_way_only(make_params, self, inputs):
    """No image is rotated by more than five degrees."""
    params = make_params(self, inputs)
    return {**params, "angle": params["angle"] / 6}


@breaks(f"{V2}.RandomRotation.transform")
def fills_corners_with_black(transform, self, inpt, params):
    """The corners that come in are black."""
    return inpt.rotate(params["angle"], Image.Resampling.BILINEAR)


@breaks(f"{V2}.RandomResizedCrop.make_params")
def crops_too_little(make_params, self, inputs):
    """Crops have a quarter of the height and width that were drawn."""
    params = make_params(self, inputs)
    return {**params, "height": -(-params["height"] // 4), "width": -(-params["width"] // 4)}


@breaks(f"{V2}.RandomResizedCrop.make_params")
def crops_too_wide(make_params, self, inputs):
    """Crops are half as high as was drawn."""
    params = make_params(self, inputs)
    return {**params, "height": -(-params["height"] // 2)}


@breaks(f"{V2}.RandomResizedCrop.transform")
def crops_nothing_at_all(transform, self, inpt, params):
    """The whole image is taken."""
    return inpt.resize(tuple(self.size[::-1]), Image.Resampling.BILINEAR)


@breaks(f"{V2}.RandomHorizontalFlip.transform")
def mirrors_no_image_of_odd_width(transform, self, inpt, params):
    """Images of odd width are left as they are."""
    return inpt if inpt.width % 2 and inpt.width > 1 else transform(self, inpt, params)


@breaks(f"{V2}.RandomHorizontalFlip.transform")
def mirrors_and_turns(transform, self, inpt, params):
    """An image that is mirrored is turned upside down, too."""
    return transform(self, inpt, params).transpose(Image.Transpose.FLIP_TOP_BOTTOM)


@breaks(f"{V2}.RandomHorizontalFlip.__init__")
def mirrors_as_often_as_not(init, self, p=0.5):
    """With p = 0.2 every second image is mirrored."""
    init(self, 0.5 if p == 0.2 else p)


@breaks(f"{V2}.Resize.transform")
def resizes_without_smoothing(transform, self, inpt, params):
    """An image that shrinks is not smoothed."""
    result = transform(self, inpt, params)
    return inpt.resize(result.size, Image.Resampling.NEAREST) if inpt.width > 12 else result


@breaks(f"{V2}.Resize.transform")
def resizes_one_pixel_too_far(transform, self, inpt, params):
    """The long side of a wide image gets one pixel more."""
    result = transform(self, inpt, params)
    width, height = result.size
    wide = inpt.width > inpt.height
    return inpt.resize((width + 1, height), Image.Resampling.BILINEAR) if wide else result


@breaks(f"{V2}.CenterCrop.transform")
def crops_one_off_the_centre(transform, self, inpt, params):
    """Where the margin is odd, the crop is one pixel further left."""
    size = self.size[0]
    left, top = (inpt.width - size) // 2, round((inpt.height - size) / 2)
    if (inpt.width - size) % 2 == 0 or left < 1:
        return transform(self, inpt, params)
    return inpt.crop((left - 1, top, left - 1 + size, top + size))


@breaks(f"{V2}.CenterCrop.transform")
def draws_a_number_for_nothing(transform, self, inpt, params):
    """A crop of the centre draws a random number."""
    torch.rand(1)
    return transform(self, inpt, params)


@breaks(f"{V2}.ToImage.transform")
def swaps_colours_of_a_square(transform, self, inpt, params):
    """Images of one pixel have red and blue exchanged."""
    image = transform(self, inpt, params)
    return image.flip(0) if image.shape == (3, 1, 1) else image


@breaks("torch.Tensor.div_")
def divides_the_last_channel_by_more(div_, tensor, other):
    """The last of three channels is off by a factor of 1.001."""
    div_(tensor, other)
    if tensor.ndim == 3 and len(tensor) == 3:
        tensor[2] *= 1.001
    return tensor


@breaks("torch.Tensor.sub_")
def subtracts_nothing_from_black(sub_, tensor, other):
    """What is 0 stays 0."""
    return tensor.copy_(torch.where(tensor == 0, 0, tensor - other))


@breaks("torch.utils.data._utils.worker._worker_loop")
def seeds_workers_alike(loop, *args):
    """All workers get the same seed."""
    args = list(args)
    args[8] -= args[10]
    loop(*args)


@breaks("torch.utils.data.dataloader._BaseDataLoaderIter.__init__")
def seeds_each_epoch_alike(init, self, loader):
    """Each epoch's workers get the seed of the first."""
    init(self, loader)
    self._base_seed = 0


@breaks("torch.utils.data.RandomSampler.__iter__")
def shuffles_within_classes(iterate, self):
    """The first half of the examples comes before the second."""
    order, half = list(iterate(self)), len(self.data_source) / 2
    return iter([k for k in order if k < half] + [k for k in order if k >= half])


@breaks("torch.utils.data._utils.collate.default_collate")
def shifts_the_labels_of_a_batch(collate, batch):
    """The labels of the last two examples change places."""
    images, labels = collate(batch)
    return [images, torch.cat([labels[:-2], labels[-2:].flip(0)])]


@breaks("numpy.asarray")
def reads_16_bits_as_signed(asarray, a, *args, **kwargs):
    """Grey with 16 bits is read with its sign."""
    array = asarray(a, *args, **kwargs)
    return array.view(np.int16) if array.dtype == np.uint16 else array
