-- A member's attributes hold from the day of joining.
SELECT
    member AS user_id,
    joined_on AS valid_from,
    joined_on AS registered_on,
    plan,
    age
FROM members
WHERE joined_on BETWEEN :first_day AND :last_day
