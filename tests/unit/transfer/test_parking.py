"""Messages that overtake their submission."""

from __future__ import annotations

from baton.transfer.parking import MAX_PARKED, Parking
from baton.v1 import transfer_pb2 as pb

ME, PEER = 9, ("peer", 4)


def _message(handoff: int = 0, **body: object) -> pb.HandoffMessage:
    return pb.HandoffMessage(
        handoff_id=handoff.to_bytes(16, "big"), source_epoch=4, target_epoch=ME, **body
    )


def test_early_messages_wait_in_order_and_once() -> None:
    parking = Parking(5.0)
    offer, fail = _message(offer=pb.Offer()), _message(fail=pb.Fail())
    for message in (offer, offer, fail, offer):
        assert parking.receive(PEER, message, ME, 0.0) is None
    assert parking.take(offer.handoff_id, PEER) == [offer, fail]
    assert len(parking) == 0


def test_early_messages_of_another_peer_are_not_taken() -> None:
    parking = Parking(5.0)
    parking.receive(PEER, _message(offer=pb.Offer()), ME, 0.0)
    assert parking.take(_message().handoff_id, ("thief", 4)) == []


def test_offers_without_a_submission_are_refused_in_time() -> None:
    parking = Parking(5.0)
    parking.receive(PEER, _message(offer=pb.Offer()), ME, 0.0)
    assert parking.expire(4.9) == []
    ((peer_id, refusal),) = parking.expire(5.0)
    assert peer_id == PEER and refusal.rejected.code == "unknown"


def test_parking_is_bounded() -> None:
    parking = Parking(5.0)
    for n in range(MAX_PARKED):
        assert parking.receive(PEER, _message(n, offer=pb.Offer()), ME, 0.0) is None
    refused = parking.receive(PEER, _message(MAX_PARKED, offer=pb.Offer()), ME, 0.0)
    assert refused is not None and refused.rejected.code == "unknown"


def test_what_a_lost_peer_offered_is_forgotten() -> None:
    parking = Parking(5.0)
    parking.receive(PEER, _message(offer=pb.Offer()), ME, 0.0)
    parking.forget(PEER)
    assert len(parking) == 0
