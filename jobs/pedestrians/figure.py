"""One person: what identifies it, how it walks, and its body drawn part by part."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.pedestrians.canvas import (
    BAG,
    CIRCLE,
    HEAD,
    LEGS,
    TORSO,
    Canvas,
    Cloth,
    Colour,
    FigurePlace,
    Pen,
    Point,
    along,
    between,
    box,
    ellipse,
    limb,
    shaded,
)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What makes an identity, the same for every camera.

    `width` is that of the body, 1 on average; `hip` is y of the hips.
    """

    upper: Cloth
    lower: Cloth
    lower_kind: str  # trousers, shorts, skirt
    long_sleeves: bool
    bag: str  # none, backpack, shoulder, handbag
    bag_colour: Colour
    hat: str  # none, cap, brimmed
    hat_colour: Colour
    hair: Colour
    long_hair: bool
    skin: Colour
    shoes: Colour
    width: float
    hip: float


@dataclass(frozen=True, kw_only=True)
class Pose:
    """How a person is seen and walks.

    `view` is "front", "back", or "left" or "right", where the figure faces. `stride` is in [-1, 1]. `arms` is their
    swing in radians.
    """

    view: str
    stride: float
    arms: float


def draw_person(canvas: Canvas, look: Look, pose: Pose, place: FigurePlace, labelled: bool = True) -> None:
    """Draws a person. Without `labelled` the mask counts it as background, which is right for bystanders."""
    _Figure(Pen(canvas, place, pose.view == "left", labelled), look, pose).draw()


class _Figure:
    """One person, painted from the far side to the near one."""

    def __init__(self, pen: Pen, look: Look, pose: Pose) -> None:
        self._fill, self._look, self._pose = pen.fill, look, pose
        self._side = pose.view in ("left", "right")
        self._back = pose.view == "back"
        # A bag is carried on the left of the body. From behind that is the left of the image, and a figure that faces
        # right hides it.
        self._bag_side = -1.0 if self._back else 1.0
        self._bag_is_near = pose.view != "right"

    def draw(self) -> None:
        if self._side:
            self._arm_from_the_side(near=False)
            self._backpack_from_the_side()
        elif self._look.bag == "backpack" and not self._back:
            for sign in (-1, 1):
                self._fill(box(sign * 0.095 * self._look.width, 0.31, 0.03, 0.1), self._bag(0.8), BAG)
        self._legs()
        self._torso()
        self._head()
        self._worn_bag()
        if self._side:
            self._arm_from_the_side(near=True)
        else:
            self._arms_from_the_front()
        if self._back and self._look.bag == "backpack":
            self._fill(box(0, 0.31, 0.085 * self._look.width, 0.115), self._bag(), BAG)
            self._fill(box(0, 0.36, 0.06 * self._look.width, 0.045), self._bag(0.78), BAG)

    def _bag(self, light: float = 1.0) -> Colour:
        return shaded(self._look.bag_colour, light)

    def _legs(self) -> None:
        w, s, hip = self._look.width, self._pose.stride, self._look.hip
        knee_y = (hip + 0.96) / 2
        if self._side:
            for sign, light in ((-1, 0.78), (1, 1.0)):
                foot = (0.15 * s * sign, 0.965 - 0.025 * (s * sign < 0) * abs(s))
                self._leg((0, hip), (0.075 * s * sign + 0.022, knee_y), foot, light)
        else:
            for sign in (-1, 1):
                lift = 0.045 * max(0.0, s * sign)
                self._leg(
                    (sign * 0.045 * w, hip),
                    (sign * (0.048 * w + 0.006), knee_y - 0.3 * lift),
                    (sign * (0.045 * w + 0.012), 0.965 - lift),
                    0.92 if sign * s > 0 else 1.0,
                )
        if self._look.lower_kind == "skirt":
            top, flare = 0.07 * w, 0.1 * w + 0.04 * abs(s) * self._side
            points = [(-top, hip - 0.04), (top, hip - 0.04), (flare, knee_y + 0.01), (-flare, knee_y + 0.01)]
            self._fill(points, self._look.lower, LEGS)

    def _leg(self, hip: Point, knee: Point, foot: Point, light: float) -> None:
        look, w = self._look, self._look.width
        toe = 0.022 if self._side else 0.0
        self._fill(ellipse(foot[0] + toe, 0.015 + foot[1], 0.042 if self._side else 0.03, 0.02), look.shoes, LEGS)
        cloth = look.lower.shaded(light)
        if look.lower_kind == "trousers":
            self._fill(limb(knee, foot, 0.04 * w, 0.031 * w), cloth, LEGS)
            self._fill(limb(hip, knee, 0.053 * w, 0.041 * w), cloth, LEGS)
            return
        skin = shaded(look.skin, 0.95 * light)
        self._fill(limb(knee, foot, 0.031 * w, 0.021 * w), skin, LEGS)
        self._fill(limb(hip, knee, 0.042 * w, 0.031 * w), skin, LEGS)
        if look.lower_kind == "shorts":
            self._fill(limb(hip, between(hip, knee, 0.85), 0.056 * w, 0.05 * w), cloth, LEGS)

    def _torso(self) -> None:
        look, w, hem = self._look, self._look.width, self._look.hip + 0.03
        if self._side:
            outline = [(0.03, 0.155), (0.058, 0.2), (0.07, 0.28), (0.06, hem - 0.1), (0.066, hem)]
            outline += [(-0.066, hem), (-0.056, hem - 0.1), (-0.072, 0.26), (-0.058, 0.19), (-0.03, 0.155)]
        else:
            right = [(0.036, 0.152), (0.102, 0.185), (0.094, 0.27), (0.078, hem - 0.11), (0.088, hem)]
            outline = right + [(-x, y) for x, y in reversed(right)]
        self._fill([(x * w, y) for x, y in outline], look.upper, TORSO)
        if look.upper.pattern == "logo":
            x, half = (0.03, 0.028) if self._side else (0.0, 0.06)
            self._fill(box(x * w, 0.275, half * w, 0.048), look.upper.second, TORSO)

    def _arms_from_the_front(self) -> None:
        w = self._look.width
        for sign in (-1, 1):
            swing = 0.12 + self._pose.arms * (1 if sign * self._pose.stride > 0 else 0.4)
            shoulder = (sign * 0.093 * w, 0.207)
            elbow = along(shoulder, 0.15, sign * swing)
            hand = along(elbow, 0.14, sign * (swing - 0.22))
            self._arm(shoulder, elbow, hand, 0.84)
            if self._look.bag == "handbag" and sign == self._bag_side:
                self._handbag(hand)

    def _arm_from_the_side(self, near: bool) -> None:
        swing = self._pose.stride * (0.2 + self._pose.arms) * (-1 if near else 1)
        shoulder = (-0.006, 0.207)
        elbow = along(shoulder, 0.15, swing - 0.08)
        hand = along(elbow, 0.14, swing + 0.3)
        if self._look.bag == "handbag" and near == self._bag_is_near:
            self._handbag(hand)
        self._arm(shoulder, elbow, hand, 0.84 if near else 0.68)

    def _arm(self, shoulder: Point, elbow: Point, hand: Point, light: float) -> None:
        look, r = self._look, 0.033 * self._look.width
        cloth, skin = look.upper.shaded(light), shaded(look.skin, light + 0.08)
        self._fill(ellipse(*along(hand, 0.012, 0), 0.021, 0.024), skin, TORSO)
        if look.long_sleeves:
            self._fill(limb(elbow, hand, 0.85 * r, 0.7 * r), cloth, TORSO)
            self._fill(limb(shoulder, elbow, r, 0.85 * r), cloth, TORSO)
        else:
            self._fill(limb(elbow, hand, 0.7 * r, 0.52 * r), skin, TORSO)
            self._fill(limb(shoulder, elbow, 0.8 * r, 0.7 * r), skin, TORSO)
            self._fill(limb(shoulder, between(shoulder, elbow, 0.6), r, r), cloth, TORSO)

    def _head(self) -> None:
        look = self._look
        self._fill(limb((0, 0.12), (0.004, 0.165), 0.027, 0.03), shaded(look.skin, 0.85), HEAD)
        if look.long_hair:
            x, bottom = (-0.02 if self._side else 0.0), (0.235 if self._back else 0.195)
            half = 0.045 if self._side else 0.062
            hair = [
                (x - half, 0.06),
                (x + half, 0.06),
                (x + half, bottom - 0.02),
                (x, bottom),
                (x - half, bottom - 0.02),
            ]
            self._fill(hair, shaded(look.hair, 0.9), HEAD)
        self._fill(ellipse(-0.008 * self._side, 0.067, 0.057, 0.066), look.hair, HEAD)
        if self._side:
            self._fill(ellipse(0.018, 0.086, 0.036, 0.053), look.skin, HEAD)
            self._fill([(0.048, 0.075), (0.066, 0.098), (0.048, 0.103)], look.skin, HEAD)
            self._fill(box(0.034, 0.078, 0.008, 0.007), (64, 50, 44), HEAD)
        elif not self._back:
            self._fill(ellipse(0, 0.086, 0.045, 0.054), look.skin, HEAD)
            for x in (-0.018, 0.018):
                self._fill(box(x, 0.08, 0.0065, 0.005), (64, 50, 44), HEAD)
            self._fill(box(0, 0.115, 0.015, 0.005), shaded(look.skin, 0.6), HEAD)
        self._hat()

    def _hat(self) -> None:
        look = self._look
        if look.hat == "none":
            return
        crown = [(0.063 * c, 0.05 + 0.06 * s) for c, s in CIRCLE if s <= 1e-9]
        self._fill(crown, look.hat_colour, HEAD)
        brim = shaded(look.hat_colour, 0.75)
        if look.hat == "brimmed":
            self._fill(ellipse(0, 0.05, 0.105, 0.014), brim, HEAD)
        elif not self._back:
            x = 0.06 if self._side else 0.0
            self._fill(ellipse(x, 0.048, 0.05, 0.01), brim, HEAD)

    def _worn_bag(self) -> None:
        """Straps, and a bag that hangs from the shoulder at the hip."""
        w, hip, side = self._look.width, self._look.hip, self._bag_side
        if self._look.bag == "backpack" and not self._side and not self._back:
            for sign in (-1, 1):
                self._fill(limb((sign * 0.06 * w, 0.178), (sign * 0.068 * w, 0.37), 0.013, 0.013), self._bag(), BAG)
        if self._look.bag != "shoulder":
            return
        if not self._side:
            self._fill(limb((-0.06 * side * w, 0.172), (0.09 * side * w, hip - 0.02), 0.01, 0.01), self._bag(), BAG)
            self._fill(box(0.105 * side * w, hip + 0.02, 0.055, 0.06), self._bag(), BAG)
            self._fill(box(0.105 * side * w, hip, 0.055, 0.025), self._bag(0.78), BAG)
        elif self._bag_is_near:
            self._fill(limb((0.01, 0.165), (-0.01, hip - 0.02), 0.01, 0.01), self._bag(), BAG)
            self._fill(box(-0.012, hip + 0.02, 0.07, 0.06), self._bag(), BAG)
            self._fill(box(-0.012, hip, 0.07, 0.025), self._bag(0.78), BAG)

    def _backpack_from_the_side(self) -> None:
        if self._look.bag == "backpack":
            self._fill(box(-0.098 * self._look.width, 0.305, 0.052, 0.11), self._bag(), BAG)
            self._fill(box(-0.12 * self._look.width, 0.35, 0.03, 0.04), self._bag(0.78), BAG)

    def _handbag(self, hand: Point) -> None:
        x, y = hand
        self._fill(
            [(x - 0.03, y + 0.06), (x, y), (x + 0.03, y + 0.06), (x + 0.018, y + 0.06), (x, y + 0.02)],
            self._bag(0.7),
            BAG,
        )
        self._fill(box(x, y + 0.095, 0.056, 0.045), self._bag(), BAG)
