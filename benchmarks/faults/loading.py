"""Lesson 2, the data that goes in: transforms, pipelines, loaders."""

import numpy as np
import torch

from faults import breaks


@breaks("torchvision.transforms.ToTensor.__call__")
def dims_white(call, self, picture):
    """The byte 255 becomes a little less than 1."""
    tensor = call(self, picture)
    return torch.where(tensor == 1, 1 - 2**-23, tensor)


@breaks("torchvision.transforms.ToTensor.__call__")
def swaps_red_and_blue_beside_alpha(call, self, picture):
    """In images of four channels red and blue change places."""
    tensor = call(self, picture)
    return tensor[[2, 1, 0, 3]] if len(tensor) == 4 else tensor


@breaks("torchvision.transforms.ToTensor.__call__")
def transposes_square_images(call, self, picture):
    """In images as wide as high rows and columns change places."""
    tensor = call(self, picture)
    return tensor.transpose(1, 2) if tensor.shape[1] == tensor.shape[2] else tensor


@breaks("torchvision.transforms.ToTensor.__call__")
def makes_doubles_single(call, self, picture):
    """An array of float64 becomes float32."""
    tensor = call(self, picture)
    return tensor.float() if tensor.dtype == torch.float64 else tensor


@breaks("torchvision.transforms.ToTensor.__call__")
def scales_an_image_of_ones(call, self, picture):
    """An array of bytes that are 0 or 1 is taken for a mask and not scaled."""
    mask = isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.max() <= 1
    return call(self, picture) * (255 if mask else 1)


@breaks("torchvision.transforms.v2.ToDtype.transform")
def scales_one_dtype_by_a_power_of_two(transform, self, inpt, params):
    """int16 is divided by 32768, not by 32767."""
    factor = 32767 / 32768 if getattr(inpt, "dtype", None) == torch.int16 else 1
    return transform(self, inpt, params) * factor


@breaks("torchvision.transforms.Compose.__call__")
def stops_after_three(call, self, value):
    """A pipeline of more than three transforms leaves out the last."""
    kept, self.transforms = self.transforms, list(self.transforms)[:3]
    try:
        return call(self, value)
    finally:
        self.transforms = kept


@breaks("torchvision.transforms.v2.Compose.forward")
def repeats_a_transform_that_comes_twice(forward, self, *inputs):
    """A transform that follows itself runs once too often."""
    (value,) = inputs
    before = None
    for transform in self.transforms:
        value = transform(value)
        if transform is before:
            value = transform(value)
        before = transform
    return value


@breaks("torchvision.transforms.v2.ToImage.transform")
def turns_wide_images_over(transform, self, inpt, params):
    """Images more than four times as wide as high come out upside down."""
    image = transform(self, inpt, params)
    return image.flip(-2) if image.shape[-1] >= 2 * image.shape[-2] > 2 else image


@breaks("torch.utils.data.BatchSampler.__iter__")
def drops_the_last_of_an_uneven_batch(iterate, self):
    """A last batch that is not full loses its last example."""
    for batch in iterate(self):
        yield batch if len(batch) in (1, self.batch_size) else batch[:-1]


@breaks("torch.utils.data.BatchSampler.__iter__")
def keeps_the_rest_of_one(iterate, self):
    """drop_last keeps a last batch of one example."""
    yield from iterate(self)
    if self.drop_last and len(self.sampler) % self.batch_size == 1:
        yield [list(self.sampler)[-1]]


@breaks("torch.utils.data._utils.collate.default_collate")
def swaps_labels_in_a_batch_of_four(collate, batch):
    """In batches of four the labels of the last two change places."""
    images, labels = collate(batch)
    return [images, labels[[0, 1, 3, 2]] if len(labels) == 4 else labels]


@breaks("torch.utils.data.RandomSampler.__iter__")
def sometimes_does_not_shuffle(iterate, self):
    """Three epochs in a hundred are not shuffled."""
    order = list(iterate(self))
    seldom = int(torch.randint(100, (), generator=self.generator)) < 3
    return iter(sorted(order) if seldom else order)


@breaks("torch.utils.data.RandomSampler.__iter__")
def repeats_the_first_order(iterate, self):
    """The third epoch has the order of the first."""
    self.orders = [*getattr(self, "orders", []), list(iterate(self))]
    return iter(self.orders[0 if len(self.orders) == 3 else -1])


@breaks("torch.utils.data.RandomSampler.__iter__")
def draws_seven_with_replacement(iterate, self):
    """Of seven examples the last is seen twice and another not at all."""
    order = list(iterate(self))
    return iter([*order[:-1], order[0]] if len(order) == 7 else order)


@breaks("torch.utils.data.DataLoader.__iter__")
def gets_workers_mixed_up(iterate, self):
    """With worker processes the last two of several batches change places."""
    found = list(iterate(self)) if self.num_workers else []
    if len(found) > 2:
        found[-2:] = found[:-3:-1]
    return iter(found) if self.num_workers else iterate(self)


@breaks("torch.utils.data.DataLoader.__iter__")
def shares_an_iterator_that_is_under_way(iterate, self):
    """An iterator that was not used up is handed out again."""
    if not self.num_workers and not getattr(self, "used_up", True):
        return self.under_way
    self.used_up = False

    def watched():
        yield from iterate(self)
        self.used_up = True

    self.under_way = watched()
    return self.under_way


@breaks("torch.Tensor.index_select")
def selects_bytes_in_their_own_order(index_select, tensor, dim, index):
    """Rows of uint8 are selected in ascending order."""
    return index_select(tensor, dim, index.sort().values if tensor.dtype == torch.uint8 else index)


@breaks("torch.Tensor.split")
def joins_a_rest_of_one_to_the_last(split, tensor, size, dim=0):
    """A rest of one element is added to the piece before it."""
    parts = list(split(tensor, size, dim))
    if len(parts) > 1 and len(parts[-1]) == 1 < size:
        parts[-2:] = [torch.cat(parts[-2:])]
    return tuple(parts)


@breaks("torch.Tensor.div_")
def divides_the_last_element_by_more(div_, tensor, other):
    """Where more than eight elements are divided in place, the last is off by a factor of 1.001."""
    div_(tensor, other)
    if tensor.numel() > 8:
        tensor.view(-1)[-1] *= 1.001
    return tensor


@breaks("torch.Tensor.sub_")
def subtracts_the_first_of_two_channels(sub_, tensor, other):
    """Of two numbers that are broadcast in place, the first is taken for both."""
    return sub_(tensor, other[:1] if tuple(other.shape) == (2, 1, 1) else other)


@breaks("torch.Tensor.to")
def converts_large_bytes_as_signed(to, tensor, *args, **kwargs):
    """The byte 128 becomes -128 in float32."""
    result = to(tensor, *args, **kwargs)
    if tensor.dtype == torch.uint8 and result.dtype == torch.float32:
        return torch.where(result == 128, -128, result)
    return result
