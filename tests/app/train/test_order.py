from qlora.train.order import RowOrder


def epoch(order: RowOrder, number: int) -> list[int]:
    first = number * order.steps_per_epoch
    return [row for i in range(order.steps_per_epoch) for row in order.rows_of(first + i)]


def test_every_epoch_sees_every_row_once_in_another_order():
    order = RowOrder(rows=11, rows_per_step=4, seed=0)
    assert order.steps_per_epoch == 3
    assert sorted(epoch(order, 0)) == sorted(epoch(order, 1)) == list(range(11))
    assert epoch(order, 0) != epoch(order, 1)


def test_the_seed_decides():
    assert epoch(RowOrder(11, 4, 0), 5) == epoch(RowOrder(11, 4, 0), 5)
    assert epoch(RowOrder(11, 4, 0), 5) != epoch(RowOrder(11, 4, 1), 5)


def test_the_last_step_of_an_epoch_takes_what_is_left():
    assert [len(RowOrder(11, 4, 0).rows_of(step)) for step in range(4)] == [4, 4, 3, 4]
