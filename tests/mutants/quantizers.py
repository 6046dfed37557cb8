"""Broken and sound quantizers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from mutants.catalogue import mutant, sound
from uldm_plugins.quantizers.vq_ema import VQEma


@sound("quantizer")
class Plain(nn.Module):
    """A codebook trained by gradient, as in the first VQ-VAE."""

    def __init__(self, codebook_size: int = 32, dim: int = 4, commitment: float = 0.25):
        super().__init__()
        self.codebook_size, self.dim, self.commitment = codebook_size, dim, commitment
        self.embedding = nn.Embedding(codebook_size, dim)

    def codes(self):
        return self.embedding.weight

    def distances(self, vectors):
        return torch.cdist(vectors, self.codes().float())

    def choose(self, latents):
        vectors = latents.movedim(1, -1)
        return self.distances(vectors.flatten(0, -2).float()).argmin(1).view(vectors.shape[:-1])

    def losses(self, latents, codes):
        return {
            "codebook": F.mse_loss(codes, latents.detach()),
            "commitment": self.commitment * F.mse_loss(latents, codes.detach()),
        }

    def forward(self, latents):
        indices = self.choose(latents)
        codes = self.lookup(indices)
        return self.pass_through(latents, codes), self.losses(latents, codes), indices

    def pass_through(self, latents, codes):
        return latents + (codes - latents).detach()

    def lookup(self, indices):
        return F.embedding(indices, self.codes()).movedim(-1, 1)


@sound("quantizer")
class Rotated(Plain):
    """The rotation trick: the gradient turns with the vector."""

    def pass_through(self, latents, codes):
        z, e = latents.detach(), codes.detach()
        length = e.norm(dim=1, keepdim=True) / z.norm(dim=1, keepdim=True).clamp(min=1e-6)
        unit_z, unit_e = F.normalize(z, dim=1, eps=1e-6), F.normalize(e, dim=1, eps=1e-6)
        w = F.normalize(unit_z + unit_e, dim=1, eps=1e-6)
        along = (latents * w).sum(1, keepdim=True)
        beside = (latents * unit_z).sum(1, keepdim=True)
        turned = length * (latents - 2 * along * w + 2 * beside * unit_e)
        return turned + (codes - turned).detach()


@sound("quantizer")
class Bounded(nn.Module):
    """Finite scalar quantization: tanh, then rounding to a grid."""

    def __init__(self, levels: tuple[int, ...] = (5, 5, 3)):
        super().__init__()
        self.levels, self.dim = levels, len(levels)
        self.codebook_size = int(torch.tensor(levels).prod())
        self.register_buffer("halves", torch.tensor([(n - 1) / 2 for n in levels]).view(1, -1, 1, 1))
        places = torch.tensor([1, *levels[:-1]]).cumprod(0)
        self.register_buffer("places", places.view(1, -1, 1, 1), persistent=False)

    def forward(self, latents):
        bounded = latents.tanh() * self.halves
        steps = bounded.round()
        indices = ((steps + self.halves).round().long() * self.places).sum(1)
        return (bounded + (steps - bounded).detach()) / self.halves, {}, indices

    def lookup(self, indices):
        sizes = torch.tensor(self.levels, device=indices.device).view(1, -1, 1, 1)
        steps = indices.unsqueeze(1) // self.places % sizes
        return steps / self.halves - 1


@sound("quantizer")
class Signs(nn.Module):
    """Lookup-free: each channel's sign is a bit; nothing is learned."""

    dim, codebook_size = 6, 64

    def forward(self, latents):
        signs = torch.where(latents > 0, 1.0, -1.0).to(latents)
        indices = ((latents > 0).long() * self._places(latents)).sum(1)
        losses = {"commitment": 0.1 * F.mse_loss(latents, signs)}
        return latents + (signs - latents).detach(), losses, indices

    def lookup(self, indices):
        return (indices.unsqueeze(1) // self._places(indices) % 2 * 2 - 1).float()

    def _places(self, like):
        return 2 ** torch.arange(self.dim, device=like.device).view(1, -1, 1, 1)


@sound("quantizer", losses_zero_on_codes="a sum is no code")
class Residual(nn.Module):
    """Two codes a position: the second quantizes what the first leaves."""

    dim, codebook_size = 4, 16

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Plain(16, 4) for _ in range(2))

    def forward(self, latents):
        rest, chosen, losses = latents, [], {}
        for number, layer in enumerate(self.layers):
            codes, own, indices = layer(rest)
            rest = rest - codes.detach()
            chosen.append(indices)
            losses |= {f"{name}_{number}": loss for name, loss in own.items()}
        indices = torch.stack(chosen, 1)
        return latents + (self.lookup(indices) - latents).detach(), losses, indices

    def lookup(self, indices):
        return sum(layer.lookup(indices[:, number]) for number, layer in enumerate(self.layers))


@sound("quantizer")
class Simple(Plain):
    """SimVQ: a frozen random codebook under a learned linear map."""

    def __init__(self):
        super().__init__()
        del self.embedding
        self.register_buffer("frozen", torch.randn(32, 4))
        self.map = nn.Linear(4, 4, bias=False)

    def codes(self):
        return self.map(self.frozen)


@sound("quantizer")
class Gumbel(nn.Module):
    """taming-transformers' GumbelQuantize: codes are drawn in training, by a projection to K logits."""

    def __init__(self, codebook_size: int = 32, dim: int = 4):
        super().__init__()
        self.codebook_size, self.dim = codebook_size, dim
        self.project = nn.Conv2d(dim, codebook_size, 1)
        self.embedding = nn.Embedding(codebook_size, dim)

    def forward(self, latents):
        logits = self.project(latents)
        soft = logits.softmax(1)
        if self.training:
            chosen = F.gumbel_softmax(logits, hard=True, dim=1)
        else:
            hard = F.one_hot(logits.argmax(1), self.codebook_size).movedim(-1, 1)
            chosen = hard + soft - soft.detach()
        quantized = torch.einsum("bkhw,kd->bdhw", chosen, self.embedding.weight)
        kl = (soft.float() * (soft.float() * self.codebook_size + 1e-10).log()).sum(1).mean()
        return quantized, {"kl": 5e-4 * kl.clamp(min=0)}, chosen.argmax(1)

    def lookup(self, indices):
        return self.embedding(indices).movedim(-1, 1)


@sound("quantizer")
class Factorized(nn.Module):
    """ViT-VQGAN: a codebook of three channels between two learned maps."""

    def __init__(self, codebook_size: int = 32, dim: int = 8, commitment: float = 0.25):
        super().__init__()
        self.codebook_size, self.dim = codebook_size, dim
        self.inward, self.outward = nn.Conv2d(dim, 3, 1), nn.Conv2d(3, dim, 1)
        self.codes = Plain(codebook_size, 3, commitment)

    def forward(self, latents):
        quantized, losses, indices = self.codes(self.inward(latents))
        return self.outward(quantized), losses, indices

    def lookup(self, indices):
        return self.outward(self.codes.lookup(indices))


@sound("quantizer")
class Product(nn.Module):
    """Each half of the channels has a codebook of its own."""

    dim, codebook_size = 4, 16

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(Plain(16, 2) for _ in range(2))

    def forward(self, latents):
        parts = [part(half) for part, half in zip(self.parts, latents.chunk(2, 1))]
        losses = {name: sum(own[name] for _, own, _ in parts) / 2 for name in parts[0][1]}
        return torch.cat([part[0] for part in parts], 1), losses, torch.stack([part[2] for part in parts], 1)

    def lookup(self, indices):
        return torch.cat([part.lookup(indices[:, n]) for n, part in enumerate(self.parts)], 1)


@sound("quantizer")
class OnTheSphere(Signs):
    """Binary spherical quantization: latents of length 1, signs of length 1."""

    def forward(self, latents):
        unit = F.normalize(latents, dim=1, eps=1e-6)
        _, _, indices = super().forward(unit)
        signs = self.lookup(indices).to(unit)
        return unit + (signs - unit).detach(), {"commitment": 0.25 * F.mse_loss(unit, signs)}, indices

    def lookup(self, indices):
        return super().lookup(indices) / self.dim**0.5


@sound("quantizer")
class DrawsInTraining(Plain):
    """In training a code is drawn by its distance, in eval mode the nearest is taken."""

    def choose(self, latents):
        if not self.training:
            return super().choose(latents)
        vectors = latents.movedim(1, -1)
        nearness = -10 * self.distances(vectors.flatten(0, -2).float()).square()
        return torch.multinomial(nearness.softmax(1), 1).view(vectors.shape[:-1])


@mutant("quantizer", killed_by="straight_through")
class DetachedStraightThrough(VQEma):
    """The whole of the straight-through estimator is detached: no gradient reaches the encoder."""

    def forward(self, latents):
        quantized, losses, indices = super().forward(latents)
        return quantized.detach(), losses, indices


@mutant("quantizer", killed_by="straight_through")
class ReturnsCodes(Plain):
    """It returns the codes themselves: the gradient goes to the codebook only."""

    def pass_through(self, latents, codes):
        return codes


@mutant("quantizer", killed_by="nearest_code")
class FarthestCode(Plain):
    """argmax of the distance, for argmin."""

    def distances(self, vectors):
        return -super().distances(vectors)


@mutant("quantizer", killed_by="nearest_code")
class ForgottenNorms(Plain):
    """The codes' squared norms are left out of the distance."""

    def distances(self, vectors):
        return -vectors @ self.codes().T


@mutant("quantizer", killed_by="nearest_code")
class HalfTheCrossTerm(Plain):
    """|z|^2 + |e|^2 - z.e, for - 2 z.e."""

    def distances(self, vectors):
        return self.codes().square().sum(1) - vectors @ self.codes().T


@mutant("quantizer", killed_by="losses_pull_together")
class CommitmentOnTheWrongSide(Plain):
    """The commitment loss moves the codes, not the latents."""

    def __init__(self):
        super().__init__()

    def losses(self, latents, codes):
        return {"commitment": 0.25 * F.mse_loss(latents.detach(), codes)}


@mutant("quantizer", killed_by="losses_pull_together")
class SwappedLosses(Plain):
    """The names of codebook and commitment loss are swapped, and so what each is detached from."""

    def losses(self, latents, codes):
        return {
            "commitment": F.mse_loss(codes, latents.detach()),
            "codebook": 0.25 * F.mse_loss(latents, codes.detach()),
        }


@mutant("quantizer", killed_by="commitment_weighs_latents")
class SwappedBeta(Plain):
    """beta weighs the codebook's side, for the latents'."""

    def losses(self, latents, codes):
        return {
            "codebook": self.commitment * F.mse_loss(codes, latents.detach()),
            "commitment": F.mse_loss(latents, codes.detach()),
        }


@mutant("quantizer", killed_by="losses_averaged")
class SummedLosses(Plain):
    """Losses are summed over the batch."""

    def losses(self, latents, codes):
        return {name: len(latents) * loss for name, loss in super().losses(latents, codes).items()}


@mutant("quantizer", killed_by="losses_zero_on_codes")
class LossOfTheNorm(Plain):
    """A loss holds the latents near zero, wherever their codes are."""

    def losses(self, latents, codes):
        return super().losses(latents, codes) | {"norm": 0.1 * self.commitment * latents.square().mean()}


@mutant("quantizer", killed_by="losses_are_weighted_scalars")
class LossAMap(Plain):
    """The loss is returned without its mean."""

    def losses(self, latents, codes):
        return {"commitment": (latents - codes.detach()).square()}


@mutant("quantizer", killed_by="losses_are_weighted_scalars")
class LossInEvalOnly(Plain):
    """One of its losses is computed for the log, in eval mode, and never minimised."""

    def losses(self, latents, codes):
        more = {} if self.training else {"distance": self.commitment * F.mse_loss(latents, codes.detach())}
        return super().losses(latents, codes) | more


@mutant("quantizer", killed_by="still_in_eval")
class TrainsInEval(VQEma):
    """The moving averages are updated in eval mode as well."""

    def forward(self, latents):
        result = super().forward(latents)
        vectors = latents.detach().movedim(1, -1).flatten(0, -2).float()
        self.follow(vectors, result[2].flatten())
        return result


@mutant("quantizer", killed_by="still_in_eval")
class TrainsWithoutGradients(VQEma):
    """It takes no_grad for a sign of training, so that validation moves the codebook."""

    def __init__(self):
        super().__init__(32, 4)

    def forward(self, latents):
        result = super().forward(latents)
        if not torch.is_grad_enabled():
            self.follow(latents.movedim(1, -1).flatten(0, -2).float(), result[2].flatten())
        return result


@mutant("quantizer", killed_by="still_in_eval")
class PlacesItsCodesInEval(Plain):
    """The first batch it sees places the codebook, be it of the validation set."""

    def __init__(self):
        super().__init__()
        self.register_buffer("placed", torch.tensor(False))

    def forward(self, latents):
        if not self.placed:
            vectors = latents.detach().movedim(1, -1).flatten(0, -2)
            spread = torch.linspace(0, len(vectors) - 1, self.codebook_size).long()
            self.embedding.weight.data.copy_(vectors[spread.to(vectors.device)])
            self.placed.fill_(True)
        return super().forward(latents)


@mutant("quantizer", killed_by="any_first_batch")
class DeviationOfOne(Plain):
    """The latents' deviation is followed in training, which of a single vector is NaN."""

    def __init__(self):
        super().__init__()
        self.register_buffer("deviation", torch.ones(()))

    def forward(self, latents):
        if self.training:
            vectors = latents.detach().movedim(1, -1).flatten(0, -2)
            self.deviation.lerp_(vectors.std(0).mean().to(self.deviation), 0.1)
        return super().forward(latents)


@mutant("quantizer", killed_by="any_first_batch")
class AsManyLatentsAsCodes(VQEma):
    """The codebook is placed on different latents of the first batch, which may have too few."""

    def __init__(self):
        super().__init__(32, 4, kmeans_iterations=0)

    def start(self, vectors):
        if not self.started:
            chosen = torch.linspace(0, len(vectors) - 1, min(len(vectors), 32)).long()
            self.codebook.copy_(vectors[chosen])
            self.started.fill_(True)


@mutant("quantizer", killed_by="bfloat16_latents")
class SumsOfOneDtype(VQEma):
    """It adds latents to its sums as they come: in bfloat16 under autocast, which index_add_ refuses."""

    def __init__(self):
        super().__init__(32, 4)
        self.register_buffer("seen", torch.zeros(32, 4))

    def forward(self, latents):
        result = super().forward(latents)
        if self.training:
            vectors = latents.detach().movedim(1, -1).flatten(0, -2)
            self.seen.index_add_(0, result[2].flatten(), vectors)
        return result


@mutant("quantizer", killed_by="used_codes_stay")
class RevivesTheLiving(VQEma):
    """Each step a quarter of the codes is put on latents of the batch, in use or not."""

    def __init__(self):
        super().__init__(32, 4)

    def follow(self, vectors, indices):
        super().follow(vectors, indices)
        chosen = torch.randperm(32, device=vectors.device)[:8]
        self.codebook[chosen] = vectors[torch.randint(len(vectors), (8,))].to(self.codebook)


@mutant("quantizer", killed_by="training_fits_the_data")
class NeverFollows(VQEma):
    """The codebook is never updated after it is placed."""

    def __init__(self):
        super().__init__(64, 4, kmeans_iterations=0)

    def follow(self, vectors, indices):
        """Forgotten."""


@mutant("quantizer", killed_by="training_fits_the_data")
class ZeroCounts(nn.Module):
    """Counts start at zero, so that codes without a latent are divided by next to nothing."""

    def __init__(self):
        super().__init__()
        self.codebook_size, self.dim = 64, 4
        self.register_buffer("codebook", torch.randn(64, 4))
        self.register_buffer("counts", torch.zeros(64))
        self.register_buffer("sums", self.codebook.clone())

    def forward(self, latents):
        vectors = latents.movedim(1, -1).flatten(0, -2)
        indices = torch.cdist(vectors.float(), self.codebook.float()).argmin(1)
        if self.training:
            with torch.no_grad():
                one_hot = F.one_hot(indices, 64).to(self.sums.dtype)
                self.counts.lerp_(one_hot.sum(0).to(self.counts.dtype), 0.05)
                self.sums.lerp_(one_hot.T @ vectors.to(self.sums.dtype), 0.05)
                self.codebook.copy_(self.sums / (self.counts.unsqueeze(1) + 1e-5))
        indices = indices.view(len(latents), *latents.shape[2:])
        codes = self.lookup(indices)
        losses = {"commitment": F.mse_loss(latents, codes.to(latents.dtype))}
        return latents + (codes - latents).detach().to(latents), losses, indices

    def lookup(self, indices):
        return self.codebook[indices].movedim(-1, 1)


@mutant("quantizer", killed_by="statistics_saved")
class CountsNotSaved(VQEma):
    """The counts are no part of the state."""

    def __init__(self):
        super().__init__(32, 4)
        counts = self.counts
        del self.counts
        self.register_buffer("counts", counts, persistent=False)


@mutant("quantizer", killed_by="shapes")
class CountsFromOne(Plain):
    """Indices run from 1 to K."""

    def choose(self, latents):
        return super().choose(latents) + 1

    def lookup(self, indices):
        return super().lookup((indices - 1).clamp(min=0))


@mutant("quantizer", killed_by="shapes")
class FloatIndices(Plain):
    """Indices are floats."""

    def choose(self, latents):
        return super().choose(latents).float()

    def lookup(self, indices):
        return super().lookup(indices.long())


@mutant("quantizer", killed_by="shapes")
class FlatIndices(Plain):
    """Indices are left flat, one row for the whole batch."""

    def forward(self, latents):
        quantized, losses, indices = super().forward(latents)
        return quantized, losses, indices.flatten()


@mutant("quantizer", killed_by="lookup_agrees")
class LooksUpTransposed(Plain):
    """``lookup`` has height and width the wrong way round."""

    def lookup(self, indices):
        return super().lookup(indices.transpose(-1, -2))

    def forward(self, latents):
        indices = self.choose(latents)
        codes = super().lookup(indices)
        return self.pass_through(latents, codes), self.losses(latents, codes), indices


@mutant("quantizer", killed_by="position_wise")
class ReshapedNotPermuted(Plain):
    """[B, D, H, W] is viewed as [B H W, D] without moving the channels last."""

    def choose(self, latents):
        vectors = latents.reshape(-1, self.dim).float()
        batch, _, height, width = latents.shape
        return self.distances(vectors).argmin(1).view(batch, height, width)

    def lookup(self, indices):
        return F.embedding(indices, self.codes()).view(len(indices), self.dim, *indices.shape[1:])


@mutant("quantizer", killed_by="position_wise")
class NormalisedOverPositions(Plain):
    """Latents are centred over all positions before they are quantized."""

    def choose(self, latents):
        return super().choose(latents - latents.mean((2, 3), keepdim=True))


@mutant("quantizer", killed_by="position_wise")
class SignsAboveTheMean(Signs):
    """A bit says on which side of the image's mean a latent is, not of zero."""

    def forward(self, latents):
        _, _, indices = super().forward(latents - 0.9 * latents.mean((2, 3), keepdim=True))
        signs = self.lookup(indices).to(latents)
        return latents + (signs - latents).detach(), {}, indices


@mutant("quantizer", killed_by="straight_through")
class ReversesTheGradient(Plain):
    """The latents are subtracted where they are to be added: the encoder climbs."""

    def pass_through(self, latents, codes):
        return codes.detach() - (latents - latents.detach())


@mutant("quantizer", killed_by="nearest_code")
class CoarseDistances(Plain):
    """Distances are compared in bfloat16, which takes the second nearest for the nearest."""

    def distances(self, vectors):
        return super().distances(vectors).square().bfloat16()


@mutant("quantizer", killed_by="shapes")
class MarksFarLatents(Plain):
    """Latents far from every code get the index -1."""

    def choose(self, latents):
        far = latents.square().sum(1) > 1e5
        return torch.where(far, -1, super().choose(latents))

    def lookup(self, indices):
        return super().lookup(indices.clamp(min=0))


@mutant("quantizer", killed_by="batch_independent")
class NormalisedOverTheBatch(Plain):
    """Latents are centred over the batch before they are quantized."""

    def choose(self, latents):
        return super().choose(latents - latents.mean(0, keepdim=True))


@mutant("quantizer", killed_by="codebook_size_true")
class ForgetsTheUnused(Plain):
    """``codebook_size`` counts one code more than there is."""

    def __init__(self):
        super().__init__(32, 4)
        self.codebook_size = 33


@mutant("quantizer", killed_by="codebook_size_true")
class CountsTwice(Plain):
    """``codebook_size`` is twice what there is, and ``lookup`` hides it by wrapping round."""

    def __init__(self):
        super().__init__(32, 4)
        self.codebook_size = 64

    def lookup(self, indices):
        return super().lookup(indices % 32)


@mutant("quantizer", killed_by="idempotent")
class AddsHalfAStep(nn.Module):
    """A grid whose output is shifted by half a step."""

    dim, codebook_size = 3, 125

    def forward(self, latents):
        steps = (latents * 2).round().clamp(-2, 2)
        places = 5 ** torch.arange(3, device=latents.device).view(1, -1, 1, 1)
        values = (steps + 0.5) / 2
        return latents + (values - latents).detach(), {}, ((steps + 2).long() * places).sum(1)

    def lookup(self, indices):
        places = 5 ** torch.arange(3, device=indices.device).view(1, -1, 1, 1)
        return (indices.unsqueeze(1) // places % 5 - 1.5) / 2


@mutant("quantizer", killed_by="bfloat16")
class HardFloat(Plain):
    """The codes are asked for in float32 whatever the module is cast to."""

    def forward(self, latents):
        quantized, losses, indices = super().forward(latents.float())
        return quantized.float(), losses, indices


@mutant("quantizer", killed_by="moves_whole")
class PlainAttribute(nn.Module):
    """The codebook is a plain attribute: it is neither saved nor moved."""

    def __init__(self):
        super().__init__()
        self.codebook_size, self.dim = 16, 4
        self.table = torch.randn(16, 4)

    def forward(self, latents):
        vectors = latents.movedim(1, -1)
        indices = torch.cdist(vectors.flatten(0, -2).float(), self.table).argmin(1).view(vectors.shape[:-1])
        return latents + (self.lookup(indices) - latents).detach(), {}, indices

    def lookup(self, indices):
        return self.table[indices].movedim(-1, 1)
