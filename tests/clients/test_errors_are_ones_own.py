import asyncio
import traceback

from tokenstream_client import AsyncClient, ClientOptions, TokenstreamError


async def test_many_answers_that_one_lost_connection_ends_have_each_an_error_of_its_own() -> None:
    options = ClientOptions(max_attempts=1, resume=False)

    async def read(client: AsyncClient) -> TokenstreamError:
        try:
            async for _ in client.generate("x"):
                pass
        except TokenstreamError as error:
            return error
        raise AssertionError("nobody is there to answer")

    async with AsyncClient("127.0.0.1:1", options=options) as client:
        errors = await asyncio.gather(*(read(client) for _ in range(20)))
    assert len({id(error) for error in errors}) == 20
    assert {(type(e), e.code, e.reason, e.message) for e in errors} == {
        (type(errors[0]), "UNAVAILABLE", errors[0].reason, errors[0].message)
    }
    assert max(len(traceback.format_exception(error)) for error in errors) < 40
