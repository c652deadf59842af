"""How alembic runs the migrations: in the transaction that it is given."""

from alembic import context

from tbserver.records import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
context.run_migrations()
